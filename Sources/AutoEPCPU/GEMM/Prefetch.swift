import CMicroKernels

/// Bytes of rows that will soon be read or written, asked for bit by bit while a product is made: the
/// processor foresees neither rows that are far apart nor what is written.
struct Prefetch {
  private let rows: RowAddresses
  private let bytes: Range<Int>
  private let forWriting: Bool
  private let rowsAtOnce: Int
  private var next = 0

  /// Asks for `bytes` of each row in about `steps` steps.
  init(_ rows: RowAddresses, bytes: Range<Int>, forWriting: Bool = false, steps: Int) {
    self.rows = rows
    self.bytes = bytes
    self.forWriting = forWriting
    rowsAtOnce = max(rows.count - 1, 0) / max(steps, 1) + 1
  }

  /// The next step.
  mutating func step() {
    guard next < rows.count else { return }
    let part = rows[next..<min(next + rowsAtOnce, rows.count)]
    unsafe prefetch_rows(
      part.pointer, part.count, bytes.lowerBound, bytes.count, forWriting ? 1 : 0)
    next += rowsAtOnce
  }
}

extension [Prefetch] {
  /// The next step of each.
  mutating func step() {
    for index in indices { self[index].step() }
  }
}
