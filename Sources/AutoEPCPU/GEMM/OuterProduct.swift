/// The sum over rows of left[row] ⊗ right[row]: the gradient of a weight.
///
/// Sums the rows in order, in blocks of one fixed depth. The blocks do not depend on the range of features that a call
/// computes.
struct OuterProduct<S: RowScalar> {
  let kernel: MatrixKernel<S.Wide>
  let bench: Workbench

  /// The left features whose values stay in the cache while all right features pass.
  private static var features: Int { 64 }
  /// The panels that are multiplied together, so that whole cache lines are written.
  private static var panelsAtOnce: Int { 2 }
  /// The bytes of right values that are packed at a time.
  private static var stripBytes: Int { 4 << 20 }

  /// A block of finished sums: `[features, columns]` with row stride `stride`.
  struct Block {
    let sums: Elements<S.Wide>
    let stride: Int
    let features: Range<Int>
    let columns: Range<Int>
  }

  /// Calls `finish` with blocks of out[l, r] for a range of left features l and all `width` right features r.
  ///
  /// - Parameter out: The rows to be written, for prefetching; nil for none.
  func multiply(
    _ left: RowAddresses, features: Range<Int>, by right: RowAddresses, width: Int,
    into out: RowAddresses?, finish: (Block) -> Void
  ) {
    assert(left.count == right.count)
    let rows = Self.features.roundedUp(to: kernel.rows)
    let columns = Self.panelsAtOnce * kernel.columns
    let sums = bench.elements(S.Wide.self, for: .sums, count: rows * columns)
    var lookahead = kernel.lookahead(rows: rows, columns: columns, depth: right.count, on: bench)
    for strip in (0..<width).chunks(of: stripColumns(depth: right.count)) {
      let panels = kernel.panels(fromDepths: right, columns: strip, on: bench)
      for block in features.parts(most: Self.features, unit: kernel.rows) {
        let rows = kernel.rows(fromDepths: left, features: block, on: bench)
        let next = block.upperBound..<min(block.upperBound + block.count, features.upperBound)
        let parts = strip.chunks(of: columns)
        for (index, part) in parts.enumerated() {
          let panels = kernel.part(index * columns, part.count, of: panels)
          lookahead.clear()
          if let out { lookahead.ask(for: out[block], bytes: S.bytes(part)) }
          lookahead.ask(
            for: left[(0..<left.count).part(index, of: parts.count)], bytes: S.bytes(next))
          kernel.multiply(
            rows, by: panels, depth: right.count, into: sums, lookahead: &lookahead)
          finish(Block(sums: sums, stride: panels.columns, features: block, columns: part))
        }
      }
    }
  }

  private func stripColumns(depth: Int) -> Int {
    let columnBytes = max(kernel.words(of: depth) * kernel.wordSize, 1)
    let columnsAtOnce = Self.panelsAtOnce * kernel.columns
    return max(Self.stripBytes / columnBytes / columnsAtOnce, 1) * columnsAtOnce
  }
}
