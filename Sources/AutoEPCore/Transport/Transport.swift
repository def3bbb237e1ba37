import AutoEPSystem

/// Moves rows between the ranks of one group. An exchange is the only primitive: the collectives
/// of `Transport+Collectives.swift` are made of it, so they reduce in one fixed order everywhere.
///
/// All ranks start the same exchanges in the same order, one at a time.
public protocol Transport: AnyObject, Sendable {
  /// This rank, in `0..<size`.
  var rank: Int { get }
  /// The number of ranks.
  var size: Int { get }

  /// Whether the group can still be used. It may be read at any time and from any thread.
  var health: GroupHealth { get }

  /// Starts an exchange whose memory stays valid until the returned one has ended.
  func start(_ exchange: RowExchange) throws(EngineError) -> any PendingExchange
}

/// Rows on their way.
public protocol PendingExchange {
  /// Returns when this rank's part has ended. Throws `.timeout` at the transport's deadline, with
  /// the step and the ranks that did not join. Called once.
  func wait() throws(EngineError)
}

/// One uneven all-to-all, as one rank sees it.
@safe
public struct RowExchange {
  /// The rows to send, in rank order.
  public let send: UnsafeRawPointer?
  /// Rows to each rank, `[size]`.
  public let sendRows: [Int]
  /// Where the rows of the ranks go, in rank order.
  public let receive: UnsafeMutableRawPointer?
  /// Rows from each rank, `[size]`.
  public let receiveRows: [Int]
  /// Bytes of a row.
  public let rowBytes: Int
  /// What the exchange is for; errors name it.
  public let step: String

  /// Describes an exchange; the caller has checked that the memory holds the rows.
  public init(
    send: UnsafeRawPointer?, sendRows: [Int], receive: UnsafeMutableRawPointer?,
    receiveRows: [Int], rowBytes: Int, step: String
  ) {
    unsafe self.send = unsafe send
    self.sendRows = sendRows
    unsafe self.receive = unsafe receive
    self.receiveRows = receiveRows
    self.rowBytes = rowBytes
    self.step = step
  }
}

extension Transport {
  /// Starts an exchange and waits for its end.
  public func exchange(_ exchange: RowExchange) throws(EngineError) {
    try start(exchange).wait()
  }
}
