import AutoEPCore
import AutoEPSystem
import CKernels

extension KernelSource {
  static let rowSum = KernelSource(
    "row_sum.cu", PackageResources.row_sum_cu,
    axes: [
      KernelVariant.rows, KernelVariant.weightsOrNone, DeviceGroups.axis,
      KernelVariant.sums,
    ])
}

extension CUDABackend {
  /// For each group, Σ over its rows of gradOut[r].
  public func groupedRowSum(
    _ gradOut: TensorView, rowsPerGroup: TensorView, into sums: TensorView
  ) throws(EngineError) {
    try groupedRowSum(
      gradOut, groups: .counts(rowsPerGroup), slotOfRow: nil, weights: nil, into: sums,
      accumulate: false)
  }

  /// The same, each row times the weight of its slot where weights are given.
  ///
  /// - Parameter sums: of the rows' type, or f32; added to for `accumulate`.
  func groupedRowSum(
    _ gradOut: TensorView, groups: DeviceGroups, slotOfRow: TensorView?, weights: TensorView?,
    into sums: TensorView, accumulate: Bool
  ) throws(EngineError) {
    let layout = try RowLayout(gradOut, [], "the sum of rows")
    let isWide = layout.vector > 1
    let columns = isWide ? ROW_SUM_COLUMNS : ROW_SUM_COLUMNS_BY_ELEMENT
    try kernel(
      .rowSum, "row_sum",
      layout.choice + KernelVariant.weight(weights?.dtype) + groups.choice
        + KernelVariant.sum(sums.dtype, accumulate: accumulate)
    ).launch(
      grid: LaunchSize((Int(layout.vectorCount) + columns - 1) / columns, groups.count),
      block: LaunchSize(ROW_SUM_THREADS), sharedBytes: ROW_SUM_THREADS * layout.vector * 4,
      on: stream, gradOut, groups.tensor,
      slotOfRow, weights, sums, Int64(gradOut.shape[0]), layout.vectorCount)
  }
}
