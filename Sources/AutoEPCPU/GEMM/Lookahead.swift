import CMicroKernels

/// Cache lines that the kernel asks for while it makes a product, one for each few depths: those of rows
/// that will soon be read or written. The processor foresees neither rows that are far apart nor what is
/// written.
@safe
struct Lookahead {
  private let lines: UnsafeMutablePointer<UnsafeRawPointer?>
  private let count: Int
  private var next = 0

  /// Bytes of some rows.
  struct Request {
    let rows: RowAddresses
    let bytes: Range<Int>
    /// Whether the processor foresees them by itself, for they run along memory.
    var isForeseen = false
  }

  /// For `calls` calls of the kernel with `words` words of depth each: as many of the lines as fit, the
  /// first requests first. Of the others, those that nothing foresees are asked for now.
  init(calls: Int, words: Int, on bench: Workbench, _ requests: [Request]) {
    let linesPerCall = Self.lineCount(words: words)
    let most = calls * linesPerCall
    let memory = unsafe bench.memory(
      for: .lookahead,
      byteCount: (most + linesPerCall) * MemoryLayout<UnsafeRawPointer?>.stride)
    unsafe lines = memory.base.assumingMemoryBound(to: UnsafeRawPointer?.self)
    var filled = 0
    for request in requests where !request.bytes.isEmpty {
      let linesPerRow = (request.bytes.count - 1) / 64 + 1
      let rowsThatFit = min((most - filled) / linesPerRow, request.rows.count)
      unsafe filled += list_lines(
        request.rows.pointer, rowsThatFit, request.bytes.lowerBound, request.bytes.count,
        lines + filled)
      guard !request.isForeseen else { continue }
      let others = request.rows[rowsThatFit..<request.rows.count]
      unsafe prefetch_rows(
        others.pointer, others.count, request.bytes.lowerBound, request.bytes.count)
    }
    count = filled
    // Calls for which nothing is left ask for a line that is there.
    for index in filled..<filled + linesPerCall {
      unsafe lines[index] = UnsafeRawPointer(memory.base)
    }
  }

  /// The lines for the next call of the kernel, with at most the words of `init`.
  mutating func take(words: Int) -> UnsafePointer<UnsafeRawPointer?> {
    let first = next
    next = min(first + Self.lineCount(words: words), count)
    return unsafe UnsafePointer(lines + first)
  }

  private static func lineCount(words: Int) -> Int {
    (words - 1) / Int(AHEAD_DEPTHS) + 1
  }
}
