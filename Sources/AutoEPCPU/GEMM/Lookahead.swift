import CMicroKernels

/// Cache lines that the kernel prefetches while it multiplies: those of rows that will soon be read or
/// written. The hardware prefetcher predicts neither scattered rows nor writes.
@safe
struct Lookahead {
  private var lines: lookahead
  private let first: UnsafeMutablePointer<UnsafeRawPointer?>
  private let most: Int
  private let linesPerCall: Int
  private var count = 0

  /// Allocates room for the lines of `calls` tiles, each `words` words deep.
  init(calls: Int, words: Int, on bench: Workbench) {
    linesPerCall = (words - 1) / Int(AHEAD_DEPTHS) + 1
    most = calls * linesPerCall
    let memory = unsafe bench.memory(
      for: .lookahead,
      byteCount: (most + linesPerCall) * MemoryLayout<UnsafeRawPointer?>.stride)
    unsafe first = memory.base.assumingMemoryBound(to: UnsafeRawPointer?.self)
    unsafe lines = lookahead(next: first, end: first)
  }

  /// Removes all lines.
  mutating func clear() {
    count = 0
    unsafe lines = lookahead(next: first, end: first)
  }

  /// Queues bytes of some rows for prefetching while there is room. Lines that do not fit are prefetched now, unless
  /// they are sequential (`isForeseen`), which the hardware prefetcher handles. Streamed rows are skipped: they are
  /// written without being read.
  mutating func ask(for rows: RowAddresses, bytes: Range<Int>, isForeseen: Bool = false) {
    guard !bytes.isEmpty, !rows.areStreamed else { return }
    let linesPerRow = (bytes.count - 1) / 64 + 1
    let rowsThatFit = min((most - count) / linesPerRow, rows.count)
    unsafe count += list_lines(
      rows.pointer, rowsThatFit, bytes.lowerBound, bytes.count, first + count)
    guard !isForeseen else { return }
    let others = rows[rowsThatFit..<rows.count]
    unsafe prefetch_rows(others.pointer, others.count, bytes.lowerBound, bytes.count)
  }

  /// Passes the queued lines to the kernel. A tile without lines of its own prefetches a line that is already cached.
  mutating func use(_ body: (UnsafeMutablePointer<lookahead>) -> Void) {
    unsafe lines.end = UnsafePointer(first + count)
    for index in count..<count + linesPerCall { unsafe first[index] = UnsafeRawPointer(first) }
    unsafe withUnsafeMutablePointer(to: &lines) { unsafe body($0) }
  }
}
