import Glibc

/// The pauses of a thread that asks again and again for what nothing wakes it for: none at first, for what takes
/// microseconds, then longer ones, so that a long wait takes no core.
package struct PollingPause {
  /// Polls that only let other threads run.
  private static let yields = 64
  private static let longest: UInt32 = 1000

  private var polls = 0
  /// In microseconds.
  private var length: UInt32 = 20

  /// The pauses of a new wait.
  package init() {}

  /// Pauses once.
  package mutating func take() {
    polls += 1
    if polls <= Self.yields {
      sched_yield()
    } else {
      usleep(length)
      length = min(2 * length, Self.longest)
    }
  }
}
