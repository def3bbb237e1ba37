import AutoEPCore
import AutoEPSystem
import CCUDA

/// A stream of the engine's own, which does not wait for the default stream.
@safe
package final class DeviceStream: @unchecked Sendable {
  private let stream: CUDAStream
  private let context: DeviceContext

  /// Makes a stream of a device's context.
  package init(in context: DeviceContext) throws(EngineError) {
    let driver = context.driver
    var stream: cuda_stream?
    try context.run { () throws(EngineError) in
      try driver.check(
        "cuStreamCreate", unsafe driver.functions.streamCreate(&stream, cuda_stream_non_blocking))
    }
    unsafe self.stream = CUDAStream(UnsafeMutableRawPointer(stream))
    self.context = context
  }

  /// Its handle as a number.
  package var bits: UInt { stream.bits }

  /// Work that is already enqueued still runs.
  deinit {
    _ = try? context.run { () throws(EngineError) in
      unsafe context.driver.functions.streamDestroy(stream.handle)
    }
  }
}
