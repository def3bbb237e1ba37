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
struct FaultWord: @unchecked Sendable {
  /// As kernels see it.
  let address: DeviceAddress
  private let memory: UnsafeMutablePointer<UInt32>

  /// Allocates the word in the current context.
  init(_ driver: CUDADriver) throws(EngineError) {
    var memory: UnsafeMutableRawPointer?
    let flags = cuda_host_portable | cuda_host_device_map
    try driver.check("cuMemHostAlloc", unsafe driver.functions.memHostAlloc(&memory, 4, flags))
    guard let memory = unsafe memory else {
      throw EngineError(.outOfMemory, "cuMemHostAlloc gave no memory")
    }
    var address: cuda_address = 0
    try driver.check(
      "cuMemHostGetDevicePointer",
      unsafe driver.functions.memHostGetDevicePointer(&address, memory, 0))
    unsafe self.memory = unsafe memory.bindMemory(to: UInt32.self, capacity: 1)
    unsafe self.memory.pointee = 0
    self.address = DeviceAddress(address)
  }

  /// Throws what a kernel has reported since the last time, and forgets it.
  func check() throws(EngineError) {
    // The device writes whole words. One that comes between the two lines is lost, but not the
    // error.
    let code = unsafe memory.pointee
    guard code != 0 else { return }
    unsafe memory.pointee = 0
    throw DeviceFault.allCases.first { $0.code == code }?.error
      ?? EngineError(.internal, "a kernel reported the unknown fault \(code)")
  }
}
