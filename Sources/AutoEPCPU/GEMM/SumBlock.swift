import AutoEPCore

/// A block of finished sums.
struct SumBlock<Wide: Real> {
  /// The block's rows of the product.
  let rows: Range<Int>
  /// The block's columns of the product.
  let columns: Range<Int>
  /// The sums of the first weights.
  let sums: Elements<Wide>
  /// The sums of the second weights, if there are two.
  let secondSums: Elements<Wide>?
  /// The distance between rows of sums, or between columns if they are stored column by column.
  let stride: Int
  let columnsRunAlongRows: Bool
  let kernel: MatrixKernel<Wide>

  /// Adds a bias, which has all columns of the product, and rounds the sums of the first weights into place.
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

  /// Copies sums of the block to rows with stride `targetStride`, a multiple of a vector.
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
