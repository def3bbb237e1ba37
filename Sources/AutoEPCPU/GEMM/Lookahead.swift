import CMicroKernels

/// Cache lines that the kernel asks for while it makes products: those of rows that will soon be read or
/// written. The processor foresees neither rows that are far apart nor what is written.
@safe
struct Lookahead {
  private var lines: lookahead
  private let first: UnsafeMutablePointer<UnsafeRawPointer?>
  private let most: Int
  private let linesPerCall: Int
  private var count = 0

  /// Room for the lines of `calls` tiles with `words` words of depth each.
  init(calls: Int, words: Int, on bench: Workbench) {
    linesPerCall = (words - 1) / Int(AHEAD_DEPTHS) + 1
    most = calls * linesPerCall
    let memory = unsafe bench.memory(
      for: .lookahead,
      byteCount: (most + linesPerCall) * MemoryLayout<UnsafeRawPointer?>.stride)
    unsafe first = memory.base.assumingMemoryBound(to: UnsafeRawPointer?.self)
    unsafe lines = lookahead(next: first, end: first)
  }

  /// Begins anew.
  mutating func clear() {
    count = 0
    unsafe lines = lookahead(next: first, end: first)
  }

  /// Asks for bytes of some rows, as far as there is room. Of the others, those that nothing foresees are
  /// asked for at once; the processor foresees by itself what runs along memory. What is streamed needs no
  /// reading before it is written.
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

  /// Gives the kernel the lines that were asked for. A tile for which none are left asks for one that is
  /// there.
  mutating func use(_ body: (UnsafeMutablePointer<lookahead>) -> Void) {
    unsafe lines.end = UnsafePointer(first + count)
    for index in count..<count + linesPerCall { unsafe first[index] = UnsafeRawPointer(first) }
    unsafe withUnsafeMutablePointer(to: &lines) { unsafe body($0) }
  }
}
