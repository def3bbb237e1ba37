import AutoEPSystem

/// Counters of layer calls; a few additions per call.
public final class ExpertsStatistics: Sendable {
  /// The counters at one moment; see autoep.h.
  public struct Snapshot: Sendable, Equatable {
    /// Forward calls.
    public var forwardCalls = 0
    /// Backward calls.
    public var backwardCalls = 0
    /// The rows that this rank dispatched.
    public var rowsSent = 0
    /// The rows among `rowsSent` that went to another rank.
    public var rowsSentRemote = 0
    /// The rows that this rank's experts received.
    public var rowsReceived = 0
    /// Bytes of rows that left this rank.
    public var bytesSentRemote = 0
  }

  private let counters = Locked(Snapshot())

  /// Makes counters at zero.
  public init() {}

  /// The counters now.
  public var snapshot: Snapshot { counters.withLock { $0 } }

  /// Resets all counters to zero.
  public func reset() { counters.withLock { $0 = Snapshot() } }

  /// Counts one forward, which dispatched rows of `rowBytes` bytes and combined as many.
  public func countForward(_ traffic: DispatchTraffic, rowBytes: Int) {
    counters.withLock {
      $0.forwardCalls += 1
      $0.rowsSent += traffic.sent
      $0.rowsSentRemote += traffic.sentRemote
      $0.rowsReceived += traffic.received
      $0.bytesSentRemote += (traffic.sentRemote + traffic.receivedRemote) * rowBytes
    }
  }

  /// Counts one backward, which moved as many rows as its forward.
  public func countBackward(_ traffic: DispatchTraffic, rowBytes: Int) {
    counters.withLock {
      $0.backwardCalls += 1
      $0.bytesSentRemote += (traffic.sentRemote + traffic.receivedRemote) * rowBytes
    }
  }
}
