import AutoEPCallback
import AutoEPCore
import AutoEPSystem
import CAutoEP

/// Transports over MPI, by way of a library of its own: this one does not need MPI to load.
public enum MPITransport {
  private struct Use {
    let library: MPILibrary
    var longestTimeout: Double
  }

  private static let use = Locked<Use?>(nil)

  /// Opens a group of ranks of MPI_COMM_WORLD. Collective over those ranks.
  ///
  /// - Parameters:
  ///   - path: The path of libautoep_mpi.so.
  ///   - ranks: Rank i of the group is world rank `ranks[i]`; nil takes all ranks of the world.
  ///   - timeout: How long the opening and each exchange wait for the other ranks, in seconds.
  public static func open(
    library path: String, ranks: [Int32]?, timeout: Double
  ) throws(EngineError) -> CallbackTransport {
    try checkTimeout(timeout)
    guard let count = Int32(exactly: ranks?.count ?? 0), ranks?.isEmpty != true else {
      throw EngineError(.invalidArgument, "MPI group: got no ranks, expected at least one")
    }
    let library = try load(path, timeout: timeout)
    var table = unsafe autoep_transport()
    let (code, text) = unsafe withMessage { message in
      unsafe library.open(ranks, count, timeout, &table, message)
    }
    if let error = failure(code, "opening of an MPI group", text) { throw error }
    return unsafe try CallbackTransport(table, timeout: timeout)
  }

  /// Ends MPI if `open` began it; every rank must come within the longest timeout given to `open`.
  public static func finalize() throws(EngineError) {
    guard let use = use.withLock({ $0 }) else { return }
    let (code, text) = unsafe withMessage { unsafe use.library.close(use.longestTimeout, $0) }
    if let error = failure(code, "end of MPI", text) { throw error }
  }

  private static func load(_ path: String, timeout: Double) throws(EngineError) -> MPILibrary {
    try use.withLock { use throws(EngineError) in
      let library = if let use { use.library } else { try MPILibrary(path: path) }
      guard library.path == path else {
        throw EngineError(
          .invalidArgument,
          "MPI library: got \(path), but this process already uses \(library.path)")
      }
      use = Use(library: library, longestTimeout: max(timeout, use?.longestTimeout ?? 0))
      return library
    }
  }
}

private func failure(_ code: Int32, _ step: String, _ text: String) -> EngineError? {
  guard code != 0 else { return nil }
  return EngineError(
    EngineError.Kind(rawValue: code) ?? .communication, "\(step): \(text)", step: step)
}
