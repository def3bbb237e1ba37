import AutoEPSystem

/// One rank of a group whose ranks are threads of this process.
///
/// Rows are copied through memory of the group, so no rank accesses another rank's memory, whatever the timing and
/// the expected counts. A rank may start several exchanges before it waits for the first.
public final class InProcessTransport: Transport {
  /// This rank, in `0..<size`.
  public let rank: Int
  /// The number of ranks.
  public let size: Int
  /// The group's health, one object for all ranks.
  public var health: GroupHealth { hub.health }
  private let hub: InProcessHub

  /// Makes the ranks of one group.
  ///
  /// - Parameters:
  ///   - size: The number of ranks, 1 to 1024.
  ///   - timeout: How long an exchange waits for the other ranks, in seconds.
  public static func makeWorld(size: Int, timeout: Double) throws(EngineError)
    -> [InProcessTransport]
  {
    guard (1...1024).contains(size) else {
      throw EngineError(
        .invalidArgument, "group in this process: size is \(size), expected 1 to 1024 ranks")
    }
    try checkTimeout(timeout)
    let hub = InProcessHub(size: size, timeout: timeout)
    return (0..<size).map { InProcessTransport(rank: $0, hub: hub) }
  }

  private init(rank: Int, hub: InProcessHub) {
    self.rank = rank
    self.hub = hub
    size = hub.size
  }

  /// Fails the group on all ranks and wakes those that wait.
  public func abort(_ cause: EngineError) { hub.fail(cause) }

  /// Posts a copy of the rows to each rank.
  public func start(_ exchange: RowExchange) throws(EngineError) -> any PendingExchange {
    try exchange.check(size: size)
    let number = try hub.post(try parcels(of: exchange), from: rank, step: exchange.step)
    return InProcessPendingExchange(exchange: exchange, number: number, rank: rank, hub: hub)
  }

  private func parcels(of exchange: RowExchange) throws(EngineError) -> [Parcel] {
    let parts = unsafe exchange.sendParts
    var parcels: [Parcel] = []
    for (target, rows) in exchange.sendRows.enumerated() {
      let copy = unsafe try TransportBuffer(copying: parts[target], for: exchange.step)
      parcels.append(
        Parcel(step: exchange.step, rows: rows, rowBytes: exchange.rowBytes, bytes: copy))
    }
    return parcels
  }
}

/// An exchange whose rows are posted, but not yet received.
private struct InProcessPendingExchange: PendingExchange {
  let exchange: RowExchange
  let number: Int
  let rank: Int
  let hub: InProcessHub

  func wait() throws(EngineError) {
    let parcels = try hub.collect(number, at: rank, step: exchange.step)
    for (source, parcel) in parcels.enumerated() {
      try check(parcel, from: source)
    }
    let parts = unsafe exchange.receiveParts
    for (source, parcel) in parcels.enumerated() {
      unsafe parts[source].copyMemory(from: UnsafeRawBufferPointer(parcel.bytes.bytes))
    }
  }

  private func check(_ parcel: Parcel, from source: Int) throws(EngineError) {
    let expected = exchange.receiveRows[source]
    let sameRow = parcel.rowBytes == exchange.rowBytes || expected == 0
    if parcel.step == exchange.step, parcel.rows == expected, sameRow { return }
    let error = EngineError.mismatch(
      step: exchange.step, sender: source,
      sends: "\(parcel.rows) rows of \(parcel.rowBytes) bytes (\(parcel.step))", receiver: rank,
      expects: "\(expected) rows of \(exchange.rowBytes) bytes (\(exchange.step))")
    hub.fail(error)
    throw error
  }
}
