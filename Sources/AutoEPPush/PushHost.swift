import AutoEPCUDA
import AutoEPCore
import AutoEPSystem
import CKernels
import Synchronization

/// The words between this rank's kernels and its host: their report of a failure, and the host's wish that they end.
@safe
final class PushHost: Sendable {
  private let memory: PinnedMemory

  /// Allocates the words.
  init(in context: DeviceContext) throws(EngineError) {
    memory = try PinnedMemory(byteCount: MemoryLayout<PushHostWords>.size, in: context)
    unsafe memory.bytes.initializeMemory(as: UInt8.self, repeating: 0)
  }

  /// As the kernels see them.
  var address: DeviceAddress { memory.address }

  /// What a kernel has reported, if anything.
  var report: PushReport? {
    guard word(MemoryLayout<PushHostWords>.offset(of: \.report.kind)) != 0 else { return nil }
    return unsafe memory.bytes.load(as: PushHostWords.self).report
  }

  /// Makes the kernels that wait return, and those that come.
  func abort() {
    guard let offset = MemoryLayout<PushHostWords>.offset(of: \.abort) else { return }
    unsafe memory.bytes.baseAddress?.advanced(by: offset)
      .assumingMemoryBound(to: Atomic<UInt64>.self).pointee.store(1, ordering: .releasing)
  }

  /// Acquires, so that what was written before the word can be read after it.
  private func word(_ offset: Int?) -> UInt64 {
    guard let offset, let base = unsafe memory.bytes.baseAddress else { return 0 }
    return unsafe base.advanced(by: offset).assumingMemoryBound(to: Atomic<UInt64>.self).pointee
      .load(ordering: .acquiring)
  }
}
