import AutoEPCallback
import AutoEPCore
import AutoEPMPI
import AutoEPSystem
import AutoEPTransportLaws

/// The checks of one rank; the other ranks of the same mpirun run them too.
struct MPICheck {
  let library: String

  typealias Check = @Sendable (MPICheck) throws -> Void

  static let named: [String: Check] = [
    "laws": closing { try $0.laws() },
    "dispatcher": closing { try $0.dispatcher() },
    "groups": closing { try $0.groups() },
    "mismatch": closing { try $0.mismatch() },
    "missing-rank": closing { try $0.missingRank() },
    "missing-opener": closing { try $0.missingOpener() },
    "host-owns-mpi": { try $0.hostOwnsMPI() },
    "single-threaded-host": { try $0.singleThreadedHost() },
    "rows-in-flight": { try $0.rowsInFlight() },
    "missing-at-end": { try $0.missingAtEnd() },
  ]

  private static func closing(_ check: @escaping Check) -> Check {
    {
      try check($0)
      try MPITransport.finalize()
    }
  }

  func open(_ ranks: [Int32]? = nil, timeout: Double = 60) throws -> CallbackTransport {
    try MPITransport.open(library: library, ranks: ranks, timeout: timeout)
  }

  private func laws() throws {
    let size = try open().size
    try checkTransport(sizes: [size]) { _ in [try open()] }
  }

  /// Checks groups whose ranks have another order than the world's, and groups side by side.
  private func groups() throws {
    let world = try open()
    let (own, size) = (Int32(world.rank), Int32(world.size))
    let reversed = try open((0..<size).reversed())
    try expect(reversed.rank == world.size - 1 - world.rank, "reversed rank is \(reversed.rank)")
    let half = try open((0..<size).filter { $0 % 2 == own % 2 })
    try expect(half.rank == world.rank / 2, "rank in half is \(half.rank)")
    try expect(
      half.exchangeCounts(Array(repeating: world.rank, count: half.size))
        == (0..<half.size).map { 2 * $0 + world.rank % 2 }, "counts of another group")
    try checkTransport(sizes: [world.size]) { _ in [reversed] }
    try wrongRanks(own: own, size: size)
    try world.barrier()
  }

  /// Wrong ranks are refused locally, without the other ranks.
  private func wrongRanks(own: Int32, size: Int32) throws {
    for ranks in [[own, size], [-1, own], [own, own], [], (0..<size).filter { $0 != own }] {
      let error = try failure(of: "group \(ranks)") { () throws(EngineError) in
        _ = try MPITransport.open(library: library, ranks: ranks, timeout: 60)
      }
      try expect(error.kind == .invalidArgument, "group \(ranks): \(error.kind), \(error)")
    }
  }

  private func mismatch() throws {
    let world = try open()
    try checkMismatch(at: try open(timeout: 1))
    try world.barrier()
  }

  /// The last rank does not join one group. Other groups still work, and messages that it sends late to that group
  /// do not reach a new one.
  private func missingRank() throws {
    let world = try open()
    try deserted(try open(timeout: 1), world)
    try world.barrier()
    try open().barrier()
  }

  private func deserted(_ group: CallbackTransport, _ world: CallbackTransport) throws {
    let last = world.size - 1
    if world.rank < last { try checkMissingRank(last, at: group, seconds: 1) }
    try world.barrier()
    if world.rank < last { return }
    let none = Array(repeating: 0, count: group.size)
    let rows = [UInt8](repeating: 0, count: 3 * group.size)
    try rows.withUnsafeBytes { rows in
      _ = try group.start(
        RowExchange(
          send: rows.baseAddress, sendRows: none.map { _ in 3 }, receive: nil, receiveRows: none,
          rowBytes: 1, step: "late"))
    }
  }

  private func missingOpener() throws {
    let world = try open()
    if world.rank == 0 {
      let error = try failure(of: "open") { () throws(EngineError) in
        _ = try MPITransport.open(library: library, ranks: [0, 1], timeout: 1)
      }
      let text = "world rank 0 waited 1 s for world rank(s) 1 to open the same group"
      try expect(error.kind == .timeout && error.message.contains(text), "\(error.kind), \(error)")
    }
    try world.barrier()
  }
}

/// Throws unless `condition` holds.
func expect(_ condition: Bool, _ what: @autoclosure () -> String) throws {
  if !condition { throw BrokenLaw(what()) }
}
