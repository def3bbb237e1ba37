import AutoEPSystem

/// The group of a single rank: an exchange is a copy.
public final class SelfTransport: Transport {
  /// 0.
  public let rank = 0
  /// 1.
  public let size = 1
  /// Fails only by `abort`: there are no other ranks.
  public let health = GroupHealth()

  /// Makes the group.
  public init() {}

  /// Copies the rows at once.
  public func start(_ exchange: RowExchange) throws(EngineError) -> any PendingExchange {
    try exchange.check(size: size)
    try health.check(step: exchange.step, rank: rank)
    guard exchange.sendRows == exchange.receiveRows else {
      throw .mismatch(
        step: exchange.step, sender: 0, sends: "\(exchange.sendRows[0]) rows", receiver: 0,
        expects: "\(exchange.receiveRows[0])")
    }
    unsafe exchange.receiveParts[0].copyMemory(from: exchange.sendParts[0])
    return FinishedExchange()
  }
}

/// Rows that have arrived.
private struct FinishedExchange: PendingExchange {
  func wait() throws(EngineError) {}
}
