import Synchronization

/// The items of one parallel loop. Threads claim ranges of items until none is left.
final class Job: @unchecked Sendable {
  private let count: Int
  private let rangeLength: Int
  private let nextStart = Atomic(0)
  // Called only before `finish`, while the caller's closure is alive.
  private var body: (@Sendable (Range<Int>) -> Void)?

  init(count: Int, rangeLength: Int, body: @escaping @Sendable (Range<Int>) -> Void) {
    self.count = count
    self.rangeLength = rangeLength
    self.body = body
  }

  /// Runs ranges until none is left.
  func takePart() {
    while true {
      let start = nextStart.add(rangeLength, ordering: .relaxed).oldValue
      guard start < count else { return }
      body?(start..<min(start + rangeLength, count))
    }
  }

  /// Releases the caller's closure, because a worker may keep the job longer. Called after the last thread has
  /// finished its ranges.
  func finish() { body = nil }
}
