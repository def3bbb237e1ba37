import AutoEPCore
import AutoEPNCCL
import AutoEPSystem
import Foundation

/// The unique ids of the groups of all checks, which rank 0 hands to the others by a file.
struct GroupIDs {
  private let ids: [[UInt8]]

  /// Makes `count` ids at rank 0, and waits for them at the others, for two minutes at most.
  init(_ count: Int, rank: Int, file: String, nccl: String) throws {
    if rank == 0 {
      ids = try (0..<count).map { _ in try NCCLTransport.uniqueID(libraryPath: nccl) }
      // By way of another name, so that nobody reads half of it.
      try Data(ids.joined()).write(to: URL(filePath: file), options: .atomic)
      return
    }
    let deadline = Deadline(seconds: 120)
    var bytes: [UInt8] = []
    while bytes.isEmpty {
      bytes = (try? Data(contentsOf: URL(filePath: file))).map { Array($0) } ?? []
      guard !deadline.hasPassed else {
        throw EngineError(.timeout, "rank 0 has not written \(file)")
      }
      usleep(10_000)
    }
    let length = NCCLTransport.uniqueIDByteCount
    ids = (0..<count).map { Array(bytes[$0 * length..<($0 + 1) * length]) }
  }

  subscript(index: Int) -> [UInt8] { ids[index] }
}
