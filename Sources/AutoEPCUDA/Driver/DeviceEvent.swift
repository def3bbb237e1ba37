import AutoEPCore
import AutoEPSystem
import CCUDA

/// A point in the work of a stream.
@safe
package final class DeviceEvent: @unchecked Sendable {
  private let event: cuda_event
  private let context: DeviceContext

  /// Marks the point behind the work that a stream, given by its handle, has so far.
  package init(behindWorkOf stream: UInt, in context: DeviceContext) throws(EngineError) {
    let driver = context.driver
    var event: cuda_event?
    try context.run { () throws(EngineError) in
      try driver.check(
        "cuEventCreate", unsafe driver.functions.eventCreate(&event, cuda_event_disable_timing))
    }
    guard let event = unsafe event else {
      throw EngineError(.internal, "cuEventCreate gave no event")
    }
    unsafe self.event = unsafe event
    self.context = context
    try move(behindWorkOf: stream)
  }

  /// Moves the event behind the work that a stream has now.
  package func move(behindWorkOf stream: UInt) throws(EngineError) {
    try context.run { () throws(EngineError) in
      try context.driver.check(
        "cuEventRecord",
        unsafe context.driver.functions.eventRecord(event, CUDAStream(bits: stream).handle))
    }
  }

  /// Makes work that is enqueued on a stream from now on wait for this event.
  package func delay(_ stream: UInt) throws(EngineError) {
    try context.run { () throws(EngineError) in
      try context.driver.check(
        "cuStreamWaitEvent",
        unsafe context.driver.functions.streamWaitEvent(CUDAStream(bits: stream).handle, event, 0))
    }
  }

  deinit {
    _ = try? context.run { () throws(EngineError) in
      unsafe context.driver.functions.eventDestroy(event)
    }
  }

  /// Whether the device has come there. Throws what has gone wrong in any work before.
  package func hasPassed() throws(EngineError) -> Bool {
    try context.run { () throws(EngineError) in
      let result = unsafe context.driver.functions.eventQuery(event)
      if result == cuda_error_not_ready { return false }
      try context.driver.check("cuEventQuery", result)
      return true
    }
  }
}
