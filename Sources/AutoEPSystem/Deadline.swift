import Glibc

/// A moment by which something has to have happened, by the clock that nobody sets.
package struct Deadline: Sendable {
  private let end: Double

  /// The moment in so many seconds.
  package init(seconds: Double) { end = Self.now + seconds }

  /// Whether the moment has come.
  package var hasPassed: Bool { Self.now >= end }

  private static var now: Double {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
  }
}
