public import AutoEPCore
public import AutoEPSystem
public import CAutoEP

/// A transport of the host: the C table `autoep_transport`, called by one thread at a time.
///
/// After a failed exchange the ranks no longer agree on which one comes next, so the transport
/// refuses further ones.
public final class CallbackTransport: Transport {
  /// This rank, in `0..<size`.
  public let rank: Int
  /// The number of ranks.
  public let size: Int

  /// The health of the group, as far as this rank knows.
  public let health = GroupHealth()

  private let table: TransportTable
  /// In seconds.
  private let timeout: Double
  /// Held during each call of the table, which may last until the deadline: `health` has a lock of its own.
  private let calls = Locked(())

  /// Takes over the table's state, which `deinit` releases; when it throws, the state stays the
  /// caller's.
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

  /// Hands the exchange to the host.
  public func start(_ exchange: RowExchange) throws(EngineError) -> any PendingExchange {
    try exchange.check(size: size)
    let request = try CallbackRequest(exchange, table: table)
    try call(step: exchange.step) { () throws(EngineError) in try request.start() }
    return CallbackPendingExchange(request: request, transport: self)
  }

  /// Waits for the exchange's end or the deadline.
  fileprivate func wait(for request: CallbackRequest) throws(EngineError) {
    try call(step: request.exchange.step) { () throws(EngineError) in
      try request.wait(seconds: timeout)
    }
  }

  /// Has the host release the request of an exchange that nobody will wait for.
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

/// An exchange in the host's hands.
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
