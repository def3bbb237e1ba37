import AutoEPCore

extension CPUBackend {
  /// For each group, Σ over its rows of gradOut[r].
  public func groupedRowSum(
    _ gradOut: TensorView, rowsPerGroup: TensorView, into sums: TensorView
  ) throws(EngineError) {
    let groups = try RowGroups(
      rowsPerGroup, groupCount: sums.shape[0], rowCount: gradOut.shape[0])
    let rows = OrderedRows(gradOut)
    switch gradOut.dtype {
    case .f32: sumRows(IndexedRows<Float>(rows), groups, sums)
    case .f64: sumRows(IndexedRows<Double>(rows), groups, sums)
    case .bf16: sumRows(IndexedRows<BFloat16>(rows), groups, sums)
    case .f16, .i32, .i64: assertionFailure("callers check the dtype")
    }
  }

  /// sums[g] = Σ over the rows of group g.
  func sumRows<S: Scalar>(_ rows: IndexedRows<S>, _ groups: RowGroups, _ sums: TensorView) {
    let width = sums.shape[1]
    let sums = Elements<S>(sums)
    let items = WorkItem.gradients(
      groups, features: width, width: 1, threadCount: pool.threadCount)
    forEachItem(of: items) { item, _ in
      sums.row(item.group, width: width)[item.features].store(sumInBlocks(rows, item))
    }
  }
}

/// The sum of an item's rows in order, in blocks of 256 whose sums are added: the rounding errors of long
/// sums grow more slowly so.
private func sumInBlocks<S: Scalar>(_ rows: IndexedRows<S>, _ item: WorkItem) -> [S.Wide] {
  var sum = [S.Wide](repeating: 0, count: item.features.count)
  for start in stride(from: item.rows.lowerBound, to: item.rows.upperBound, by: 256) {
    var blockSum = [S.Wide](repeating: 0, count: item.features.count)
    for row in start..<min(start + 256, item.rows.upperBound) {
      rows[row][item.features].addScaled(by: 1, to: &blockSum)
    }
    for index in sum.indices { sum[index] += blockSum[index] }
  }
  return sum
}
