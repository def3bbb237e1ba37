import AutoEPCUDA
import AutoEPCore
import AutoEPSystem

/// Page-locked memory for rows of the host, which NCCL moves as it moves the device's. To lock pages takes longer than a
/// small exchange, so memory is used again.
final class StagingPool: Sendable {
  private static let smallest = 4096
  private let context: DeviceContext
  private let idle = Locked<[PinnedMemory]>([])

  init(_ context: DeviceContext) { self.context = context }

  /// Memory of at least so many bytes, until its last reference is gone.
  func take(byteCount: Int) throws(EngineError) -> StagedRows {
    if let memory = takeIdle(byteCount) { return StagedRows(memory, of: self) }
    return StagedRows(
      try PinnedMemory(byteCount: max(byteCount, Self.smallest), in: context), of: self)
  }

  fileprivate func giveBack(_ memory: PinnedMemory) { idle.withLock { $0.append(memory) } }

  /// The smallest that is large enough.
  private func takeIdle(_ byteCount: Int) -> PinnedMemory? {
    idle.withLock { idle in
      let fitting = idle.indices.filter { unsafe idle[$0].bytes.count >= byteCount }
      let best = fitting.min { unsafe idle[$0].bytes.count < idle[$1].bytes.count }
      return best.map { idle.remove(at: $0) }
    }
  }
}

/// Memory that is lent by a pool.
final class StagedRows: Sendable {
  let memory: PinnedMemory
  private let pool: StagingPool

  fileprivate init(_ memory: PinnedMemory, of pool: StagingPool) {
    self.memory = memory
    self.pool = pool
  }

  deinit { pool.giveBack(memory) }

  /// The part of it for a range of bytes.
  func part(_ range: Range<Int>) -> UnsafeMutableRawBufferPointer {
    unsafe UnsafeMutableRawBufferPointer(rebasing: memory.bytes[range])
  }
}
