import AutoEPCore
import AutoEPSystem
import CKernels

extension KernelSource {
  static let rowSum = KernelSource(
    "row_sum.cu", PackageResources.row_sum_cu,
    axes: [
      KernelVariant.rows, RowGroups.axis,
      KernelVariant.sums,
    ])
}

extension CUDABackend {
  /// For each group, Σ over its rows of weights[r] · rows[r].
  public func groupedRowSum(
    _ rows: ExpertRows, weights: ExpertRows?, groups: RowGroups, into sums: TensorView,
    accumulate: Bool
  ) throws(EngineError) {
    let rows = try inOrder(rows)
    let layout = try RowLayout(rows, [], "the sum of rows")
    let columns = layout.vector > 1 ? ROW_SUM_COLUMNS : ROW_SUM_COLUMNS_BY_ELEMENT
    try kernel(
      .rowSum, "row_sum",
      layout.defines + groups.defines + KernelVariant.sum(sums.dtype, accumulate: accumulate)
    ).launch(
      grid: LaunchSize((Int(layout.vectorCount) + columns - 1) / columns, groups.count),
      block: LaunchSize(ROW_SUM_THREADS), sharedBytes: ROW_SUM_THREADS * layout.vector * 4,
      on: stream, rows, groups.tensor, optionalInOrder(weights), sums, Int64(rows.shape[0]),
      layout.vectorCount)
  }
}
