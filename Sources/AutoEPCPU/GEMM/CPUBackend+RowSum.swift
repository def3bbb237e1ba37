import AutoEPCore
import AutoEPSystem

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

  /// sums[g] = Σ over the rows of group g, in order, in blocks of 256 whose sums are added: the rounding
  /// errors of long sums grow more slowly so.
  func sumRows<S: RowScalar>(_ rows: IndexedRows<S>, _ groups: RowGroups, _ sums: TensorView) {
    let width = sums.shape[1]
    let sums = Elements<S>(sums)
    let items = WorkItem.gradients(
      groups, features: width, width: 1, threadCount: pool.threadCount)
    forEachItem(of: items) { item, bench in
      let count = item.features.count
      let total = bench.elements(S.Wide.self, for: .sums, count: count)
      let blockSum = bench.elements(S.Wide.self, for: .secondSums, count: count)
      total.fill(0)
      for block in item.rows.parts(most: 256, unit: 256) {
        blockSum.fill(0)
        for row in block { rows[row][item.features].addScaled(by: 1, to: blockSum) }
        total.add(blockSum)
      }
      sums.row(item.group, width: width)[item.features].store(total)
    }
  }
}
