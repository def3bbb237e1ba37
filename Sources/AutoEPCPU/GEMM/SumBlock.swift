import AutoEPCore

/// A block of finished sums.
struct SumBlock<Wide: Real> {
  /// The rows of the product that it has.
  let rows: Range<Int>
  /// The columns of the product that it has.
  let columns: Range<Int>
  /// Those of the first weights.
  let sums: Elements<Wide>
  /// Those of the second, where there are two.
  let secondSums: Elements<Wide>?
  /// The distance of rows of sums, or of columns where those are kept one after the other.
  let stride: Int
  let columnsRunAlongRows: Bool
  let kernel: MatrixKernel<Wide>

  /// Adds a bias, of all columns of the product, and rounds the sums of the first weights into their
  /// place.
  func store<S: RowScalar>(into target: ProductTarget<S>, bias: Elements<S>?)
  where S.Wide == Wide {
    if let bias { add(bias[columns]) }
    let (rows, place) = (target.rows[rows], target.place(of: columns))
    if columnsRunAlongRows {
      kernel.store(sums, stride: stride, into: rows, columns: place)
    } else {
      kernel.storeTransposed(sums, stride: stride, into: rows, columns: place)
    }
  }

  /// Copies sums of the block to rows that are `stride` apart, a multiple of whole vectors.
  func copy(_ sums: Elements<Wide>, into target: Elements<Wide>, stride targetStride: Int) {
    guard columnsRunAlongRows else {
      return kernel.transpose(
        sums, stride: stride, rows: columns.count, columns: rows.count, into: target,
        stride: targetStride)
    }
    for row in 0..<rows.count {
      target[row * targetStride..<row * targetStride + columns.count].copy(
        sums[row * stride..<row * stride + columns.count])
    }
  }

  private func add<S: Scalar>(_ bias: Elements<S>) where S.Wide == Wide {
    if columnsRunAlongRows {
      for row in 0..<rows.count {
        sums[row * stride..<row * stride + columns.count].add(bias)
      }
    } else {
      for column in 0..<columns.count {
        let value = bias[column].wide
        sums[column * stride..<column * stride + rows.count].replace { $0 + value }
      }
    }
  }
}
