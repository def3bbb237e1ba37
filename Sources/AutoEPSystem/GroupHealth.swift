/// Whether a group of ranks can still be used. After a failed exchange the ranks may disagree about which
/// exchange comes next, so every later call is refused.
///
/// A transport records the failure and checks the health before each exchange. Any thread can read the health
/// at any time, also during an exchange.
public final class GroupHealth: Sendable {
  private let first = Locked<EngineError?>(nil)

  /// The health of a new group.
  public init() {}

  /// The failure that ended the group, with its step and the missing ranks if known; nil while the group is usable.
  public var failure: EngineError? { first.withLock { $0 } }

  /// Ends the group. Only the first failure is kept, because later ones are its consequences.
  public func record(_ failure: EngineError) {
    first.withLock { $0 = $0 ?? failure }
  }

  /// Throws `EngineError.groupFailed` if the group has failed.
  ///
  /// - Parameters:
  ///   - step: The step that `rank` is about to start.
  ///   - rank: The calling rank.
  public func check(step: String, rank: Int) throws(EngineError) {
    if let failure { throw .groupFailed(step: step, rank: rank, cause: failure) }
  }
}
