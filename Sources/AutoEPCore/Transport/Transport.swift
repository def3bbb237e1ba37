import AutoEPSystem

/// Moves rows between the ranks of one group. The exchange is the only primitive: the collectives of
/// `Transport+Collectives.swift` are built on it, so all transports reduce in one fixed order.
///
/// All ranks start the same exchanges in the same order, one at a time.
public protocol Transport: AnyObject, Sendable {
  /// This rank, in `0..<size`.
  var rank: Int { get }
  /// The number of ranks.
  var size: Int { get }

  /// Whether the group can still be used. Can be read at any time, from any thread.
  var health: GroupHealth { get }

  /// Whether exchanges of this memory space are possible.
  func reaches(_ space: MemorySpace) -> Bool

  /// Fails the group on this rank: later exchanges, and waiting ones that can be woken, fail with `cause`.
  func abort(_ cause: EngineError)

  /// Starts an exchange behind the earlier work of its queue. Its memory stays valid until the exchange has ended.
  func start(_ exchange: RowExchange) throws(EngineError) -> any PendingExchange
}

/// Rows on their way.
public protocol PendingExchange {
  /// Returns when this rank's part has ended; that of a stream when it is enqueued there, so that work behind it finds
  /// the rows. What goes wrong later is in the group's health, and the next call throws it. Throws `.timeout` at the transport's deadline, with
  /// the step and the ranks that did not join. Called once.
  func wait() throws(EngineError)
}

/// One uneven all-to-all, as one rank sees it.
public struct RowExchange: Sendable {
  /// The rows to send, in rank order.
  public let send: Storage
  /// Rows to each rank, `[size]`.
  public let sendRows: [Int]
  /// The memory for the received rows, in rank order.
  public let receive: Storage
  /// Rows from each rank, `[size]`.
  public let receiveRows: [Int]
  /// The bytes per row.
  public let rowBytes: Int
  /// The exchange's name in error messages.
  public let step: String
  /// The queue whose earlier work writes the rows to send.
  public let queue: WorkQueue

  /// Describes an exchange; the caller has checked that the memory holds the rows.
  public init(
    send: Storage, sendRows: [Int], receive: Storage, receiveRows: [Int], rowBytes: Int,
    step: String, queue: WorkQueue = .host
  ) {
    self.send = send
    self.sendRows = sendRows
    self.receive = receive
    self.receiveRows = receiveRows
    self.rowBytes = rowBytes
    self.step = step
    self.queue = queue
  }

  /// Describes an exchange of host memory.
  public init(
    send: UnsafeRawPointer?, sendRows: [Int], receive: UnsafeMutableRawPointer?,
    receiveRows: [Int], rowBytes: Int, step: String
  ) {
    unsafe self.init(
      send: .host(UnsafeMutableRawPointer(mutating: send)), sendRows: sendRows,
      receive: .host(receive), receiveRows: receiveRows, rowBytes: rowBytes, step: step)
  }

  /// The rows to send, of an exchange of host memory.
  public var sendPointer: UnsafeRawPointer? {
    guard case .host(let pointer) = send else { return nil }
    return UnsafeRawPointer(pointer)
  }

  /// The memory for the received rows, of an exchange of host memory.
  public var receivePointer: UnsafeMutableRawPointer? {
    guard case .host(let pointer) = receive else { return nil }
    return unsafe pointer
  }
}

extension Transport {
  /// Only host memory.
  public func reaches(_ space: MemorySpace) -> Bool { space == .host }

  /// Records the cause, with which every later exchange of this rank fails.
  public func abort(_ cause: EngineError) { health.record(cause) }

  /// Starts an exchange and waits for its end.
  public func exchange(_ exchange: RowExchange) throws(EngineError) {
    try start(exchange).wait()
  }
}
