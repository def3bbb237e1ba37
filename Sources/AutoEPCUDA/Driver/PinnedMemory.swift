import AutoEPCore
import AutoEPSystem
import CCUDA

/// Page-locked memory of the host, which the device reads and writes as well.
@safe
package final class PinnedMemory: @unchecked Sendable {
  /// The memory, as the host sees it.
  package let bytes: UnsafeMutableRawBufferPointer
  /// Its beginning, as the device sees it.
  package let address: DeviceAddress
  private let context: DeviceContext

  /// Allocates memory of a device's context, not initialised.
  package init(byteCount: Int, in context: DeviceContext) throws(EngineError) {
    let driver = context.driver
    var memory: UnsafeMutableRawPointer?
    var address: cuda_address = 0
    try context.run { () throws(EngineError) in
      let flags = cuda_host_portable | cuda_host_device_map
      try driver.check(
        "cuMemHostAlloc of \(byteCount) bytes",
        unsafe driver.functions.memHostAlloc(&memory, max(byteCount, 1), flags))
      try driver.check(
        "cuMemHostGetDevicePointer",
        unsafe driver.functions.memHostGetDevicePointer(&address, memory, 0))
    }
    unsafe bytes = UnsafeMutableRawBufferPointer(start: memory, count: byteCount)
    self.address = DeviceAddress(address)
    self.context = context
  }

  deinit {
    _ = try? context.run { () throws(EngineError) in
      unsafe context.driver.functions.memFreeHost(bytes.baseAddress)
    }
  }
}
