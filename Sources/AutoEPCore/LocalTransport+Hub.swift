import AutoEPSystem

/// Rows on their way from one rank to another.
struct LocalParcel: Sendable {
  let step: String
  let rows: Int
  let rowBytes: Int
  let bytes: TransportBuffer
}

/// Where the ranks of one process leave rows for each other.
final class LocalHub: Sendable {
  let size: Int
  private let timeout: Double
  private let mail: Monitor<Mail>

  init(size: Int, timeout: Double) {
    self.size = size
    self.timeout = timeout
    mail = Monitor(Mail(started: Array(repeating: 0, count: size)))
  }

  /// Leaves `parcels[p]` for each rank p; returns the exchange's number.
  func post(_ parcels: [LocalParcel], from rank: Int) throws(EngineError) -> Int {
    try mail.change { (mail: inout Mail) throws(EngineError) in
      try mail.post(parcels, from: rank)
    }
  }

  /// Waits for the parcels of one exchange, in rank order. At the deadline the whole group fails,
  /// so that a rank that comes late gets an error and not half an exchange.
  func collect(_ number: Int, at rank: Int, step: String) throws(EngineError) -> [LocalParcel] {
    try mail.wait(seconds: timeout) { (mail: inout Mail, late) throws(EngineError) in
      let missing = mail.missing(number)
      if missing.isEmpty { return mail.take(number, at: rank) }
      if let cause = mail.failure, cause.kind != .timeout {
        throw .groupFailed(step: step, rank: rank, cause: cause)
      }
      guard late || mail.failure != nil else { return nil }
      let timedOut = EngineError.missingRanks(
        missing, step: step, rank: rank, size: size, seconds: timeout)
      mail.failure = timedOut
      throw timedOut
    }
  }

  /// Ends the group: whoever waits, or comes later, gets an error.
  func fail(_ error: EngineError) {
    mail.change { mail in mail.failure = mail.failure ?? error }
  }
}

/// What the hub holds.
private struct Mail {
  /// The exchanges that each rank has started.
  var started: [Int]
  var parcels: [Address: LocalParcel] = [:]
  var failure: EngineError?

  struct Address: Hashable {
    let number: Int
    let source: Int
    let target: Int
  }

  mutating func post(_ posted: [LocalParcel], from source: Int) throws(EngineError) -> Int {
    if let failure {
      throw .groupFailed(step: posted[source].step, rank: source, cause: failure)
    }
    let number = started[source]
    started[source] += 1
    for (target, parcel) in posted.enumerated() {
      parcels[Address(number: number, source: source, target: target)] = parcel
    }
    return number
  }

  /// The ranks that have not started exchange `number`.
  func missing(_ number: Int) -> [Int] {
    started.indices.filter { started[$0] <= number }
  }

  mutating func take(_ number: Int, at target: Int) -> [LocalParcel] {
    started.indices.compactMap {
      parcels.removeValue(forKey: Address(number: number, source: $0, target: target))
    }
  }
}
