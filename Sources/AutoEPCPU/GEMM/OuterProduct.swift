/// The sum over rows of left[row] ⊗ right[row]: the gradient of a weight.
///
/// A sum runs over the rows in blocks of one fixed depth, each in order, whatever part of the result is
/// made.
struct OuterProduct<S: RowScalar> {
  let kernel: MatrixKernel<S.Wide>
  let bench: Workbench

  /// Left features whose values stay in the cache while all right ones pass.
  private static var features: Int { 64 }
  /// The bytes of right values that are packed at a time.
  private static var stripBytes: Int { 4 << 20 }

  /// out[l, r] for the left features of a range, and all of `width` right ones. `out` is the whole result.
  func multiply(
    _ left: RowAddresses, features: Range<Int>, by right: RowAddresses, width: Int,
    into out: Elements<S>
  ) {
    assert(left.count == right.count)
    let out = outRows(out, width: width)
    for strip in (0..<width).chunks(of: stripColumns(depth: right.count)) {
      let panels = kernel.panels(fromDepths: right, columns: strip, on: bench)
      for block in features.parts(most: Self.features, unit: kernel.rows) {
        let rows = kernel.rows(fromDepths: left, features: block, on: bench)
        let next = block.upperBound..<min(block.upperBound + block.count, features.upperBound)
        let parts = strip.chunks(of: kernel.columns)
        for (index, columns) in parts.enumerated() {
          let panel = kernel.panel(index, of: panels, depth: right.count)
          let sums = bench.elements(
            S.Wide.self, for: .sums,
            count: block.count.roundedUp(to: kernel.rows) * panel.columns)
          var lookahead = kernel.lookahead(
            rows: block.count, columns: panel.columns, depth: right.count, on: bench)
          lookahead.ask(for: out[block], bytes: S.bytes(columns))
          lookahead.ask(
            for: left[(0..<left.count).part(index, of: parts.count)], bytes: S.bytes(next))
          kernel.multiply(
            rows, by: panel, depth: right.count, into: sums, lookahead: &lookahead)
          kernel.store(sums, stride: panel.columns, into: out[block], columns: columns)
        }
      }
    }
  }

  private func outRows(_ out: Elements<S>, width: Int) -> RowAddresses {
    unsafe RowAddresses(count: out.count / width, on: bench, for: .targetAddresses) {
      unsafe UnsafeRawPointer(out.row($0, width: width).pointer)
    }
  }

  private func stripColumns(depth: Int) -> Int {
    let columnBytes = max(kernel.words(of: depth) * kernel.wordSize, 1)
    return max(Self.stripBytes / columnBytes / kernel.columns, 1) * kernel.columns
  }
}
