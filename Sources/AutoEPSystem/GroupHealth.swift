/// Whether a group of ranks can still be used. After a failed exchange its ranks no longer agree on
/// which one comes next, so every later call is refused.
///
/// A transport records the failure and checks before each exchange; any thread may read the health at
/// any time, also while an exchange waits.
public final class GroupHealth: Sendable {
  private let first = Locked<EngineError?>(nil)

  /// The health of a new group.
  public init() {}

  /// The failure that ended the group, with its step and the missing ranks where they are known; nil
  /// while the group can be used.
  public var failure: EngineError? { first.withLock { $0 } }

  /// Ends the group. Only the first failure is kept: later ones follow from it.
  public func record(_ failure: EngineError) {
    first.withLock { $0 = $0 ?? failure }
  }

  /// Throws `EngineError.groupFailed` if the group has failed.
  ///
  /// - Parameters:
  ///   - step: The step that rank `rank` is about to do.
  ///   - rank: The rank that asks.
  public func check(step: String, rank: Int) throws(EngineError) {
    if let failure { throw .groupFailed(step: step, rank: rank, cause: failure) }
  }
}
