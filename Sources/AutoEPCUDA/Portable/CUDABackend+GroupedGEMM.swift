import AutoEPCore

extension CUDABackend {
  /// out [R,out] = rows [R,in] times the weight of each row's group (+ bias).
  func groupedGEMM(
    _ rows: TensorView, weights: TensorView, layout: WeightLayout, bias: TensorView?,
    groups: DeviceGroups, into out: TensorView
  ) throws(EngineError) {
    try kernel(
      .portableGroupedGEMM, "portable_grouped_gemm",
      productDefines(rows, weights) + groups.defines + ["LAYOUT=\(layout.rawValue)"]
    ).launch(
      grid: productGrid, block: 256, sharedBytes: productSharedBytes, on: stream, rows, weights,
      bias, groups.tensor, out, Int32(groups.count), Int64(rows.shape[0]), Int32(out.shape[1]),
      Int32(rows.shape[1]))
  }

  /// gradWeights = for each group, Σ over its rows of gradOut ⊗ rows; zeros for an empty one.
  /// `accumulate` adds to f32 gradients.
  func groupedGEMMWeightGradient(
    gradOut: TensorView, rows: TensorView, layout: WeightLayout, groups: DeviceGroups,
    into gradWeights: TensorView, accumulate: Bool
  ) throws(EngineError) {
    let (left, right) = layout == .outIn ? (gradOut, rows) : (rows, gradOut)
    try kernel(
      .portableWeightGradient, "portable_weight_gradient",
      productDefines(left, right) + groups.defines
        + sumDefines(gradWeights, accumulate: accumulate)
    ).launch(
      grid: productGrid, block: 256, sharedBytes: productSharedBytes, on: stream, left, right,
      groups.tensor, gradWeights, Int32(groups.count), Int64(rows.shape[0]), Int32(left.shape[1]),
      Int32(right.shape[1]))
  }

  /// sums [E,width] = for each group, Σ over its rows of (their slots' weight ·) rows.
  func groupedRowSum(
    _ rows: TensorView, groups: DeviceGroups, slotOfRow: TensorView?, weights: TensorView?,
    into sums: TensorView, accumulate: Bool
  ) throws(EngineError) {
    let access = RowAccess(rows)
    let columns = access.vector == 1 ? 32 : 8
    let vectors = access.count(rows)
    try kernel(
      .rowSum, "row_sum",
      access.defines + weightDefines(weights) + groups.defines
        + sumDefines(sums, accumulate: accumulate)
    ).launch(
      grid: LaunchSize((vectors + columns - 1) / columns, groups.count), block: 256,
      sharedBytes: 256 * access.vector * 4, on: stream, rows, groups.tensor, slotOfRow, weights,
      sums, Int64(rows.shape[0]), Int32(vectors))
  }

  /// Rows of both operands begin and end at multiples of 16 bytes, or not.
  private func productDefines(_ left: TensorView, _ right: TensorView) -> [String] {
    let isAligned = left.dtype != .f32 && RowAccess(left, right).vector > 1
    return ["ELEMENT=\(left.dtype.kernelCode)", "ALIGNED=\(isAligned ? 1 : 0)"]
  }

  /// Persistent: two blocks a processor.
  private var productGrid: LaunchSize { LaunchSize(2 * device.processorCount) }

  /// What the larger of the two kinds of tile takes.
  private var productSharedBytes: Int { 48 << 10 }
}
