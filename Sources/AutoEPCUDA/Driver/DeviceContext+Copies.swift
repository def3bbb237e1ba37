import AutoEPCore
import AutoEPSystem
import CCUDA

/// Copies, behind the work of a stream that is given by its handle.
extension DeviceContext {
  /// From the device to the device.
  package func copy(
    _ byteCount: Int, from source: DeviceAddress, to target: DeviceAddress, on stream: UInt
  ) throws(EngineError) {
    guard byteCount > 0, source != target else { return }
    try call("cuMemcpyDtoDAsync") {
      unsafe driver.functions.memcpyDtoDAsync(
        target.bits, source.bits, byteCount, CUDAStream(bits: stream).handle)
    }
  }

  /// From the host to the device. The source may change when this returns.
  func copy(
    _ source: UnsafeRawBufferPointer, to target: DeviceAddress, on stream: CUDAStream
  ) throws(EngineError) {
    guard unsafe !source.isEmpty else { return }
    try call("cuMemcpyHtoDAsync") {
      unsafe driver.functions.memcpyHtoDAsync(
        target.bits, source.baseAddress, source.count, stream.handle)
    }
  }

  /// From the device to the host; returns when the bytes are there.
  func read(
    _ source: DeviceAddress, into target: UnsafeMutableRawBufferPointer, on stream: CUDAStream
  ) throws(EngineError) {
    guard unsafe !target.isEmpty else { return }
    try call("cuMemcpyDtoHAsync") {
      unsafe driver.functions.memcpyDtoHAsync(
        target.baseAddress, source.bits, target.count, stream.handle)
    }
    try call("cuStreamSynchronize") { unsafe driver.functions.streamSynchronize(stream.handle) }
  }

  /// Sets bytes of the device's memory to 0, and waits until that is done.
  package func clear(_ byteCount: Int, at target: DeviceAddress) throws(EngineError) {
    let zeros = [UInt8](repeating: 0, count: byteCount)
    let stream = CUDAStream(bits: 0)
    try call("cuMemcpyHtoDAsync") {
      unsafe zeros.withUnsafeBytes { bytes in
        unsafe driver.functions.memcpyHtoDAsync(
          target.bits, bytes.baseAddress, bytes.count, stream.handle)
      }
    }
    try call("cuStreamSynchronize") { unsafe driver.functions.streamSynchronize(stream.handle) }
  }

  private func call(
    _ name: StaticString, _ body: () -> cuda_result
  ) throws(EngineError) {
    try driver.check("\(name)", run { () throws(EngineError) in body() })
  }
}
