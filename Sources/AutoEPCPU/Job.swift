import Synchronization

/// The items of one parallel loop; threads take ranges of them until none is left.
final class Job: @unchecked Sendable {
  private let count: Int
  private let rangeLength: Int
  private let nextStart = Atomic(0)
  // Only called before `finish`, while the caller's closure lives.
  private var body: (@Sendable (Range<Int>) -> Void)?

  init(count: Int, rangeLength: Int, body: @escaping @Sendable (Range<Int>) -> Void) {
    self.count = count
    self.rangeLength = rangeLength
    self.body = body
  }

  /// Works until no range is left.
  func takePart() {
    while true {
      let start = nextStart.add(rangeLength, ordering: .relaxed).oldValue
      guard start < count else { return }
      body?(start..<min(start + rangeLength, count))
    }
  }

  /// Lets go of the caller's closure; a worker may hold the job a little longer. Called when no
  /// thread takes part any more.
  func finish() { body = nil }
}
