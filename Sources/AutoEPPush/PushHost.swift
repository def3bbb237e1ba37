import AutoEPCUDA
import AutoEPCore
import AutoEPSystem
import CKernels
import Synchronization

/// Host memory that this rank's kernels read and write: their report of a failure, and the host's request to end.
@safe
final class PushHost: Sendable {
  private let memory: PinnedMemory

  /// Allocates the words.
  init(in context: DeviceContext) throws(EngineError) {
    memory = try PinnedMemory(byteCount: MemoryLayout<PushHostWords>.size, in: context)
    unsafe memory.bytes.initializeMemory(as: UInt8.self, repeating: 0)
  }

  /// The address of the words as the kernels see it.
  var address: DeviceAddress { memory.address }

  /// The failure that a kernel has reported; nil if there is none.
  var report: PushReport? {
    guard word(MemoryLayout<PushHostWords>.offset(of: \.report.kind)) != 0 else { return nil }
    return unsafe memory.bytes.load(as: PushHostWords.self).report
  }

  /// Ends the waits of this rank's kernels, including those of kernels that start later.
  func abort() {
    guard let offset = MemoryLayout<PushHostWords>.offset(of: \.abort) else { return }
    unsafe memory.bytes.baseAddress?.advanced(by: offset)
      .assumingMemoryBound(to: Atomic<UInt64>.self).pointee.store(1, ordering: .releasing)
  }

  /// Loads a word with acquire order: what the kernel wrote before the word can be read after it.
  private func word(_ offset: Int?) -> UInt64 {
    guard let offset, let base = unsafe memory.bytes.baseAddress else { return 0 }
    return unsafe base.advanced(by: offset).assumingMemoryBound(to: Atomic<UInt64>.self).pointee
      .load(ordering: .acquiring)
  }
}
