import AutoEPCore
import AutoEPSystem
import CCUDA

/// A device's primary context, shared by the whole process and retained until it ends.
@safe
package struct DeviceContext: @unchecked Sendable {
  let driver: CUDADriver
  private let context: cuda_context
  /// Whether the context is device 0's, the runtime's default for threads that have not set a device.
  private let isOfFirstDevice: Bool

  init(
    _ device: cuda_device, ordinal: Int, _ driver: CUDADriver
  ) throws(EngineError) {
    var context: cuda_context?
    try driver.check(
      "cuDevicePrimaryCtxRetain", unsafe driver.functions.devicePrimaryCtxRetain(&context, device))
    guard let context = unsafe context else {
      throw EngineError(.internal, "cuDevicePrimaryCtxRetain gave no context")
    }
    self.driver = driver
    unsafe self.context = unsafe context
    isOfFirstDevice = ordinal == 0
  }

  /// The context of the device of a number.
  package init(ordinal: Int, _ driver: CUDADriver) throws(EngineError) {
    try self.init(driver.device(ordinal), ordinal: ordinal, driver)
  }

  /// Runs `body` with this context current, and then leaves the thread as it was; but one without a
  /// context keeps the first device's, as any call of CUDA's runtime would give it.
  package func run<Result>(
    _ body: () throws(EngineError) -> Result
  ) throws(EngineError) -> Result {
    var previous: cuda_context?
    try driver.check("cuCtxGetCurrent", unsafe driver.functions.ctxGetCurrent(&previous))
    if unsafe previous == context { return try body() }
    try driver.check("cuCtxSetCurrent", unsafe driver.functions.ctxSetCurrent(context))
    if unsafe previous == nil && isOfFirstDevice { return try body() }
    defer { _ = unsafe driver.functions.ctxSetCurrent(previous) }
    return try body()
  }
}
