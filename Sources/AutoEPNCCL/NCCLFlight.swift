import AutoEPCUDA
import AutoEPSystem

/// An exchange that a stream has still to do.
final class NCCLFlight: Sendable {
  let step: String
  let deadline: Deadline
  private let event: DeviceEvent
  /// Memory that it reads or writes, kept until then.
  private let staging: [StagedRows]

  init(_ step: String, until deadline: Deadline, event: DeviceEvent, staging: [StagedRows] = []) {
    self.step = step
    self.deadline = deadline
    self.event = event
    self.staging = staging
  }

  /// Whether its stream has done it.
  func hasLanded() throws(EngineError) -> Bool { try event.hasPassed() }
}
