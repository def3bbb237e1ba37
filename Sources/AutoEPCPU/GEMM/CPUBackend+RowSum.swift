import AutoEPCore
import AutoEPSystem

extension CPUBackend {
  /// For each group, Σ over its rows of weights[r] · rows[r].
  public func groupedRowSum(
    _ rows: ExpertRows, weights: ExpertRows?, groups: RowGroups, into sums: TensorView,
    accumulate: Bool
  ) throws(EngineError) {
    let ranges = try GroupRanges(groups, groupCount: sums.shape[0], rowCount: rows.capacity)
    let target = GradientTarget(sums, accumulate: accumulate)
    switch rows.tensor.dtype {
    case .f32: sumRows(IndexedRows<Float>(rows), weights, ranges, target)
    case .f64: sumRows(IndexedRows<Double>(rows), weights, ranges, target)
    case .bf16: sumRows(IndexedRows<BFloat16>(rows), weights, ranges, target)
    case .f16, .i32, .i64: throw Self.unsupported(rows.tensor.dtype, by: "the gradient of a bias")
    }
  }

  /// Sums the rows of each group in order, in blocks of 256 whose sums are then added: this keeps the rounding
  /// error of long sums small.
  func sumRows<S: RowScalar>(
    _ rows: IndexedRows<S>, _ weights: ExpertRows?, _ groups: GroupRanges, _ target: GradientTarget
  ) {
    let width = target.tensor.shape[1]
    let weights = weights.map { IndexedRows<S.Wide>($0) }
    let items = WorkItem.gradients(
      groups, features: width, width: 1, threadCount: pool.threadCount)
    forEachItem(of: items, depth: 1) { item, bench in
      let count = item.features.count
      let total = bench.elements(S.Wide.self, for: .sums, count: count)
      let blockSum = bench.elements(S.Wide.self, for: .secondSums, count: count)
      total.fill(0)
      for block in item.rows.parts(most: 256, unit: 256) {
        blockSum.fill(0)
        for row in block {
          rows[row][item.features].addScaled(by: weights?[row][0] ?? 1, to: blockSum)
        }
        total.add(blockSum)
      }
      target.store(total, row: item.group, columns: item.features, as: S.self)
    }
  }
}
