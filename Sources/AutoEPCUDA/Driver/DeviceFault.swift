import AutoEPCore
import AutoEPSystem
import CCUDA
import CKernels

/// Invalid data found by a kernel. The kernel writes the fault's code to a word of host memory, and the next call on a
/// context of the device throws.
enum DeviceFault: CaseIterable {
  case topkIdx
  case logits

  var code: UInt32 {
    switch self {
    case .topkIdx: UInt32(FAULT_TOPK_IDX)
    case .logits: UInt32(FAULT_LOGITS)
    }
  }

  var error: EngineError {
    switch self {
    case .topkIdx:
      EngineError(
        .invalidArgument,
        "an earlier call on this device was given topk_idx with a choice that is neither in [0, E) nor -1:"
          + " that slot got no row, and contributed nothing")
    case .logits:
      EngineError(
        .invalidArgument,
        "an earlier call on this device was given logits with a NaN or +inf, or a token without a"
          + " finite one: what it wrote for that token is meaningless")
    }
  }
}

/// The word, page-locked and mapped into the device's address space. Lives as long as its device.
@safe
struct FaultWord: Sendable {
  private let memory: PinnedMemory

  /// Allocates the word.
  init(_ context: DeviceContext) throws(EngineError) {
    memory = try PinnedMemory(byteCount: MemoryLayout<UInt32>.size, in: context)
    unsafe memory.bytes.storeBytes(of: 0, as: UInt32.self)
  }

  /// As kernels see it.
  var address: DeviceAddress { memory.address }

  /// Throws what a kernel has reported since the last time, and forgets it.
  func check() throws(EngineError) {
    // The device writes whole words. One that comes between the two lines is lost, but not the
    // error.
    let code = unsafe memory.bytes.load(as: UInt32.self)
    guard code != 0 else { return }
    unsafe memory.bytes.storeBytes(of: 0, as: UInt32.self)
    throw DeviceFault.allCases.first { $0.code == code }?.error
      ?? EngineError(.internal, "a kernel reported the unknown fault \(code)")
  }
}
