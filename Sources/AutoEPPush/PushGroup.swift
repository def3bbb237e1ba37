import AutoEPCore
import AutoEPSystem
import CKernels

/// One rank of a group: its deadline, its health, and the names of its last exchanges.
final class PushGroup: Sendable {
  let rank: Int
  let size: Int
  /// How long an exchange waits for the other ranks, in seconds.
  let timeout: Double
  /// Moves host memory between the same ranks.
  let control: any Transport
  private let host: PushHost
  private let outcome = GroupHealth()
  private let steps = Locked(PushSteps())

  init(over control: any Transport, timeout: Double, host: PushHost) {
    (rank, size) = (control.rank, control.size)
    (self.control, self.timeout, self.host) = (control, timeout, host)
  }

  /// The health of the group, including what the device and the control transport have reported so far.
  var health: GroupHealth {
    if outcome.failure == nil {
      if let report = host.report {
        outcome.record(error(of: report))
      } else if let failure = control.health.failure {
        fail(failure)
      }
    }
    return outcome
  }

  /// Throws if the group has failed.
  func check(step: String) throws(EngineError) { try health.check(step: step, rank: rank) }

  /// Notes the step of an exchange, for reports.
  func note(_ step: String, exchange: UInt64) {
    steps.withLock { $0.note(step, exchange: exchange) }
  }

  /// Runs a part of a step; ends the group if it fails.
  func attempt<Result>(
    _ step: String, _ body: () throws(EngineError) -> Result
  ) throws(EngineError) -> Result {
    do throws(EngineError) {
      return try body()
    } catch {
      throw fail(
        EngineError(
          error.kind, "\(step): rank \(rank) of \(size): \(error.message)", step: step))
    }
  }

  /// Ends the group on this rank: its kernels return, and every later call finds the first failure.
  @discardableResult
  func fail(_ failure: EngineError) -> EngineError {
    outcome.record(failure)
    host.abort()
    return failure
  }

  private func error(of report: PushReport) -> EngineError {
    let step = steps.withLock { $0.step(of: report.exchange) }
    let origin = Int(clamping: report.origin)
    let peers = (0..<size).filter { report.peers >> UInt64($0) & 1 == 1 }
    switch Int(clamping: report.kind) {
    case PUSH_TIMEOUT:
      let missing = peers.filter { $0 != rank }
      if !missing.isEmpty {
        return .missingRanks(missing, step: step, rank: rank, size: size, seconds: timeout)
      }
      return EngineError(
        .communication,
        "\(step): rank \(rank) of \(size) came too late: rank \(origin) has waited for it, and given"
          + " the group up", step: step)
    case PUSH_MISMATCH:
      return .mismatch(
        step: step, sender: peers.first ?? rank, sends: "\(report.found) bytes", receiver: origin,
        expects: "\(report.expected)")
    default:
      return EngineError(
        .communication, "\(step): rank \(rank) of \(size): rank \(origin) has given the group up",
        step: step, ranks: [origin])
    }
  }
}
