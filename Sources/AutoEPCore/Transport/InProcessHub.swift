import AutoEPSystem

/// Passes rows between the ranks of one process.
final class InProcessHub: Sendable {
  let size: Int
  let health = GroupHealth()
  /// The deadline of an exchange, in seconds.
  private let timeout: Double
  private let mail: Monitor<Mail>

  init(size: Int, timeout: Double) {
    self.size = size
    self.timeout = timeout
    mail = Monitor(Mail(size: size))
  }

  /// Posts `parcels[p]` for each rank p; returns the exchange's number.
  func post(_ parcels: [Parcel], from rank: Int, step: String) throws(EngineError) -> Int {
    try mail.change { (mail: inout Mail) throws(EngineError) in
      try health.check(step: step, rank: rank)
      return mail.post(parcels, from: rank)
    }
  }

  /// Waits for the parcels of one exchange, in rank order. At the deadline the whole group fails,
  /// so that a late rank gets an error and not part of an exchange.
  func collect(_ number: Int, at rank: Int, step: String) throws(EngineError) -> [Parcel] {
    try mail.wait(seconds: timeout) { (mail: inout Mail, late) throws(EngineError) in
      let missing = mail.missing(number)
      if missing.isEmpty { return mail.take(number, at: rank) }
      // After another rank's timeout, this rank reports the ranks that it is itself waiting for.
      let otherTimedOut = health.failure?.kind == .timeout
      if !otherTimedOut { try health.check(step: step, rank: rank) }
      guard late || otherTimedOut else { return nil }
      let timedOut = EngineError.missingRanks(
        missing, step: step, rank: rank, size: size, seconds: timeout)
      health.record(timedOut)
      throw timedOut
    }
  }

  /// Fails the group: waiting ranks and all later exchanges get an error.
  func fail(_ error: EngineError) {
    mail.change { _ in health.record(error) }
  }
}
