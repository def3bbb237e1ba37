import AutoEPCore

/// A block of finished sums, row by row.
struct SumBlock<Wide: Real> {
  /// The rows of the product that it has.
  let rows: Range<Int>
  /// The columns of the product that it has.
  let columns: Range<Int>
  /// The distance of its rows.
  let stride: Int
  /// The sums of the first weights.
  let sums: Elements<Wide>
  /// Those of the second, where there are two.
  let second: Elements<Wide>?

  /// The sums of a row, counted from the block's first.
  func row(_ row: Int) -> Elements<Wide> {
    sums[row * stride..<row * stride + columns.count]
  }

  /// The second sums of a row.
  func secondRow(_ row: Int) -> Elements<Wide>? {
    second.map { $0[row * stride..<row * stride + columns.count] }
  }

  /// Adds a bias, of all columns of the product, and rounds the block into its place.
  func store<S: Scalar>(
    into out: IndexedRows<S>, firstRow: Int, firstColumn: Int = 0, bias: Elements<S>?
  ) where S.Wide == Wide {
    let bias = bias?[columns]
    let place = firstColumn + columns.lowerBound..<firstColumn + columns.upperBound
    for (index, row) in rows.enumerated() {
      let sums = self.row(index)
      if let bias { sums.add(bias) }
      out[firstRow + row][place].store(sums)
    }
  }
}
