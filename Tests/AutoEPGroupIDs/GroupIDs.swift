import AutoEPCore
import AutoEPNCCL
import AutoEPSystem
import Glibc

/// The unique ids of the groups of all checks, which rank 0 hands to the others by a file.
public struct GroupIDs {
  private let ids: [[UInt8]]

  /// Makes `count` ids at rank 0, and waits for them at the others, for two minutes at most.
  public init(_ count: Int, rank: Int, file: String, nccl: String) throws {
    let length = NCCLTransport.uniqueIDByteCount
    if rank == 0 {
      ids = try (0..<count).map { _ in try NCCLTransport.uniqueID(libraryPath: nccl) }
      try Self.write(Array(ids.joined()), to: file)
      return
    }
    let deadline = Deadline(seconds: 120)
    while access(file, R_OK) != 0 {
      guard !deadline.hasPassed else {
        throw EngineError(.timeout, "rank 0 has not written \(file)")
      }
      usleep(10_000)
    }
    let bytes = try Self.read(count * length, from: file)
    ids = (0..<count).map { Array(bytes[$0 * length..<($0 + 1) * length]) }
  }

  /// The id of a group.
  public subscript(index: Int) -> [UInt8] { ids[index] }

  /// By way of another name, so that nobody reads half of it.
  private static func write(_ bytes: [UInt8], to file: String) throws {
    let partial = file + ".partial"
    try open(partial, "w") { stream in fwrite(bytes, 1, bytes.count, stream) == bytes.count }
    guard rename(partial, file) == 0 else {
      throw EngineError(.internal, "\(file) cannot be written")
    }
  }

  private static func read(_ count: Int, from file: String) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    try open(file, "r") { stream in fread(&bytes, 1, count, stream) == count }
    return bytes
  }

  private static func open(
    _ file: String, _ mode: String, _ body: (UnsafeMutablePointer<FILE>) -> Bool
  ) throws {
    guard let stream = fopen(file, mode) else {
      throw EngineError(.internal, "\(file) cannot be opened")
    }
    let isWhole = body(stream)
    guard fclose(stream) == 0, isWhole else {
      throw EngineError(.internal, "\(file) is not whole")
    }
  }
}
