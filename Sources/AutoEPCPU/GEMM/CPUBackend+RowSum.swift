import AutoEPCore

extension CPUBackend {
  /// For each group, Σ over its rows of gradOut[r].
  public func groupedRowSum(_ gradOut: TensorView, rowsPerGroup: [Int], into sums: TensorView) {
    switch gradOut.dtype {
    case .f32: sumRows(Elements<Float>(gradOut), rowsPerGroup, sums)
    case .f64: sumRows(Elements<Double>(gradOut), rowsPerGroup, sums)
    case .bf16: sumRows(Elements<BFloat16>(gradOut), rowsPerGroup, sums)
    case .f16, .i32, .i64: assertionFailure("callers check the dtype")
    }
  }

  private func sumRows<S: Scalar>(
    _ gradOut: Elements<S>, _ rowsPerGroup: [Int], _ sums: TensorView
  ) {
    let width = sums.shape[1]
    let sums = Elements<S>(sums)
    let firstRows = rowsPerGroup.reduce(into: [0]) { $0.append($0[$0.count - 1] + $1) }
    pool.forEachRange(of: rowsPerGroup.count, grain: 1) {
      for group in $0 {
        let range = firstRows[group]..<firstRows[group + 1]
        sums.row(group, width: width).store(sumInBlocks(gradOut.rows(range, width: width), width))
      }
    }
  }
}

/// The sum of rows in order, in blocks of 256 whose sums are added: the rounding errors of long sums
/// grow more slowly so.
private func sumInBlocks<S: Scalar>(_ rows: Elements<S>, _ width: Int) -> [S.Wide] {
  let rowCount = width > 0 ? rows.count / width : 0
  var sum = [S.Wide](repeating: 0, count: width)
  for start in stride(from: 0, to: rowCount, by: 256) {
    var blockSum = [S.Wide](repeating: 0, count: width)
    for row in start..<min(start + 256, rowCount) {
      rows.row(row, width: width).addScaled(by: 1, to: &blockSum)
    }
    for index in sum.indices { sum[index] += blockSum[index] }
  }
  return sum
}
