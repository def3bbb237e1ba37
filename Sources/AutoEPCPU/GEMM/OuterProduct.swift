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
    for strip in (0..<width).chunks(of: stripColumns(depth: right.count)) {
      let panels = kernel.panels(fromDepths: right, columns: strip, on: bench, for: .panels)
      for block in features.parts(most: Self.features, unit: kernel.rows) {
        let rows = kernel.rows(fromDepths: left, features: block, on: bench)
        for (columns, panel) in panels {
          let sums = bench.elements(
            S.Wide.self, for: .sums, count: block.count.roundedUp(to: kernel.rows) * panel.columns)
          var prefetch: Prefetch? = Prefetch(
            outRows(out, block, width: width), bytes: S.bytes(columns), forWriting: true,
            steps: kernel.tileCount(rows: block.count, depth: right.count))
          kernel.multiply(rows, by: panel, depth: right.count, into: sums, prefetch: &prefetch)
          S.roundRows(
            sums, stride: panel.columns,
            into: out[block.lowerBound * width + columns.lowerBound..<out.count],
            targetStride: width, rows: block.count, count: columns.count)
        }
      }
    }
  }

  private func outRows(
    _ out: Elements<S>, _ features: Range<Int>, width: Int
  ) -> RowAddresses {
    unsafe RowAddresses(count: features.count, on: bench, for: .outRowAddresses) {
      unsafe UnsafeRawPointer(out.row(features.lowerBound + $0, width: width).pointer)
    }
  }

  private func stripColumns(depth: Int) -> Int {
    let columnBytes = max(kernel.words(of: depth) * kernel.wordSize, 1)
    return max(Self.stripBytes / columnBytes / kernel.columns, 1) * kernel.columns
  }
}
