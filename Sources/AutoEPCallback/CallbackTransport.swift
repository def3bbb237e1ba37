public import AutoEPCore
public import AutoEPSystem
public import CAutoEP

/// A transport of the host: the C table `autoep_transport`, called by one thread at a time.
///
/// After a failed exchange the ranks may disagree about which exchange comes next, so the transport refuses all later
/// ones.
public final class CallbackTransport: Transport {
  /// This rank, in `0..<size`.
  public let rank: Int
  /// The number of ranks.
  public let size: Int

  /// The health of the group, as far as this rank knows.
  public let health = GroupHealth()

  private let table: TransportTable
  /// The deadline of an exchange, in seconds.
  private let timeout: Double
  /// Held during each call of the table, which can last until the deadline; `health` therefore has a lock of its own.
  private let calls = Locked(())

  /// Takes ownership of the table's state, which `deinit` releases. If the initializer throws, the caller keeps it.
  ///
  /// - Parameters:
  ///   - table: The host's functions.
  ///   - timeout: How long an exchange waits for the other ranks, in seconds.
  public init(_ table: autoep_transport, timeout: Double) throws(EngineError) {
    try checkTimeout(timeout)
    self.table = unsafe try TransportTable(table)
    rank = unsafe Int(table.rank)
    size = unsafe Int(table.size)
    self.timeout = timeout
  }

  deinit { table.releaseState() }

  /// Starts the exchange in the host's transport.
  public func start(_ exchange: RowExchange) throws(EngineError) -> any PendingExchange {
    try exchange.check(size: size)
    let request = try CallbackRequest(exchange, table: table)
    try call(step: exchange.step) { () throws(EngineError) in try request.start() }
    return CallbackPendingExchange(request: request, transport: self)
  }

  /// Waits until the exchange has ended, or the deadline.
  fileprivate func wait(for request: CallbackRequest) throws(EngineError) {
    try call(step: request.exchange.step) { () throws(EngineError) in
      try request.wait(seconds: timeout)
    }
  }

  /// Makes the host release the request of an exchange that will not be waited for.
  fileprivate func abandon(_ request: CallbackRequest) {
    calls.withLock { _ in
      do throws(EngineError) {
        try request.wait(seconds: 0)
      } catch {
        health.record(error)
      }
    }
  }

  private func call(step: String, _ body: () throws(EngineError) -> Void) throws(EngineError) {
    try calls.withLock { _ throws(EngineError) in
      try health.check(step: step, rank: rank)
      do throws(EngineError) {
        try body()
      } catch {
        health.record(error)
        throw error
      }
    }
  }
}

/// An exchange that the host's transport has started.
private final class CallbackPendingExchange: PendingExchange {
  private let request: CallbackRequest
  private let transport: CallbackTransport

  init(request: CallbackRequest, transport: CallbackTransport) {
    self.request = request
    self.transport = transport
  }

  deinit {
    if request.isPending { transport.abandon(request) }
  }

  func wait() throws(EngineError) { try transport.wait(for: request) }
}
