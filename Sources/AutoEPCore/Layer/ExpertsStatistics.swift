import AutoEPSystem

/// Counters of layers; a handful of additions a call.
public final class ExpertsStatistics: Sendable {
  /// The counters at one moment, as autoep.h describes them.
  public struct Snapshot: Sendable, Equatable {
    /// Forwards.
    public var forwardCalls = 0
    /// Backwards.
    public var backwardCalls = 0
    /// Copies this rank routed.
    public var rowsSent = 0
    /// Those that went to another rank.
    public var rowsSentRemote = 0
    /// Copies this rank's experts got.
    public var rowsReceived = 0
    /// Payload that left this rank.
    public var bytesSentRemote = 0
  }

  private let counters = Locked(Snapshot())

  /// Counters at zero.
  public init() {}

  /// The counters now.
  public var snapshot: Snapshot { counters.withLock { $0 } }

  /// Starts from zero.
  public func reset() { counters.withLock { $0 = Snapshot() } }

  /// Counts one forward whose dispatch moved rows of so many bytes, and whose combine moved them back.
  public func countForward(_ traffic: DispatchTraffic, rowBytes: Int) {
    counters.withLock {
      $0.forwardCalls += 1
      $0.rowsSent += traffic.sent
      $0.rowsSentRemote += traffic.sentRemote
      $0.rowsReceived += traffic.received
      $0.bytesSentRemote += (traffic.sentRemote + traffic.receivedRemote) * rowBytes
    }
  }

  /// Counts one backward, likewise.
  public func countBackward(_ traffic: DispatchTraffic, rowBytes: Int) {
    counters.withLock {
      $0.backwardCalls += 1
      $0.bytesSentRemote += (traffic.sentRemote + traffic.receivedRemote) * rowBytes
    }
  }
}
