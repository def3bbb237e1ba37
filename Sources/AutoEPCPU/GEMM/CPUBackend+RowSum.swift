import AutoEPCore

extension CPUBackend {
  /// For each group, Σ over its rows of gradOut[r].
  public func groupedRowSum(
    _ gradOut: TensorView, rowsPerGroup: TensorView, into sums: TensorView
  ) throws(EngineError) {
    let groups = try RowGroups(
      rowsPerGroup, groupCount: sums.shape[0], rowCount: gradOut.shape[0])
    switch gradOut.dtype {
    case .f32: sumRows(Elements<Float>(gradOut), groups, sums)
    case .f64: sumRows(Elements<Double>(gradOut), groups, sums)
    case .bf16: sumRows(Elements<BFloat16>(gradOut), groups, sums)
    case .f16, .i32, .i64: assertionFailure("callers check the dtype")
    }
  }

  private func sumRows<S: Scalar>(
    _ gradOut: Elements<S>, _ groups: RowGroups, _ sums: TensorView
  ) {
    let width = sums.shape[1]
    let sums = Elements<S>(sums)
    pool.forEachRange(of: groups.ranges.count, grain: 1) {
      for group in $0 {
        let rows = gradOut.rows(groups.ranges[group], width: width)
        sums.row(group, width: width).store(sumInBlocks(rows, width))
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
