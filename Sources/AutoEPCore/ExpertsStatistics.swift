import AutoEPSystem

/// Counters of the experts path; a handful of additions a call.
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

  /// Counts one forward.
  public func countForward(_ plan: DispatchPlan, rank: Int, rowBytes: Int) {
    counters.withLock {
      $0.forwardCalls += 1
      $0.rowsSent += plan.rowsSent
      $0.rowsSentRemote += plan.rowsSent - plan.sendRows[rank]
      $0.rowsReceived += plan.rowsReceived
      $0.bytesSentRemote += Self.remoteRows(plan, rank) * rowBytes
    }
  }

  /// Counts one forward on a device that has all experts.
  public func countLocalForward(rows: Int) {
    counters.withLock {
      $0.forwardCalls += 1
      $0.rowsSent += rows
      $0.rowsReceived += rows
    }
  }

  /// Counts one backward there.
  public func countLocalBackward() { counters.withLock { $0.backwardCalls += 1 } }

  /// Counts one backward.
  public func countBackward(_ plan: DispatchPlan, rank: Int, rowBytes: Int) {
    counters.withLock {
      $0.backwardCalls += 1
      $0.bytesSentRemote += Self.remoteRows(plan, rank) * rowBytes
    }
  }

  /// Rows that leave this rank in a dispatch and a combine.
  private static func remoteRows(_ plan: DispatchPlan, _ rank: Int) -> Int {
    plan.rowsSent - plan.sendRows[rank] + plan.rowsReceived - plan.receiveRows[rank]
  }
}
