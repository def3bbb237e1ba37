import AutoEPCore
import Synchronization

/// The failure of the lowest item of a parallel loop, whichever thread met it first.
final class FirstFailure: Sendable {
  private let lowest = Mutex<(item: Int, error: EngineError)?>(nil)

  /// Notes a failure of an item.
  func note(_ error: EngineError, at item: Int) {
    lowest.withLock { lowest in
      if let known = lowest, known.item <= item { return }
      lowest = (item, error)
    }
  }

  /// Throws what was noted, if anything.
  func rethrow() throws(EngineError) {
    if let failure = lowest.withLock({ $0 }) { throw failure.error }
  }
}
