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
    for strip in (0..<width).parts(most: stripColumns(depth: right.count), unit: kernel.lanes) {
      let columns = strip.parts(most: kernel.columns, unit: kernel.lanes)
      let panels = kernel.panels(columns, depth: right.count, on: bench)
      for (columns, panel) in zip(columns, panels) {
        kernel.packDepths(right, columns: columns, into: panel)
      }
      for block in features.parts(most: Self.features, unit: kernel.rows) {
        let rows = kernel.rows(fromDepths: left, features: block, on: bench)
        for (columns, panel) in zip(columns, panels) {
          let sums = bench.elements(
            S.Wide.self, for: .sums, count: block.count.roundedUp(to: kernel.rows) * panel.columns)
          kernel.multiply(rows, by: panel, depth: right.count, into: sums)
          for (index, feature) in block.enumerated() {
            out.row(feature, width: width)[columns].store(
              sums.row(index, width: panel.columns))
          }
        }
      }
    }
  }

  private func stripColumns(depth: Int) -> Int {
    let columnBytes = max(kernel.words(of: depth) * kernel.wordSize, 1)
    return max(Self.stripBytes / columnBytes / kernel.columns, 1) * kernel.columns
  }
}
