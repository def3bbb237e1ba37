import AutoEPCore
import AutoEPSystem

extension CPUBackend {
  /// out[r] = rows[r] · W[group of r] (+ bias); throws if the groups do not match the rows.
  public func groupedGEMM(
    _ rows: ExpertRows, weights: TensorView, layout: WeightLayout, bias: TensorView?,
    groups: RowGroups, into out: ExpertRows
  ) throws(EngineError) {
    let ranges = try GroupRanges(
      groups, groupCount: weights.shape[0], rowCount: groups.rowLimit(rows, out))
    prepareOutputs(out.tensor)
    switch rows.tensor.dtype {
    case .f32: multiply(Float.self, rows, weights, layout, bias, ranges, out)
    case .f64: multiply(Double.self, rows, weights, layout, bias, ranges, out)
    case .bf16: multiply(BFloat16.self, rows, weights, layout, bias, ranges, out)
    case .f16, .i32, .i64: throw Self.unsupported(rows.tensor.dtype, by: "grouped GEMM")
    }
  }

  /// For each group, Σ over its rows of gradOut[r] ⊗ rows[r].
  public func groupedGEMMWeightGradient(
    gradOut: ExpertRows, rows: ExpertRows, layout: WeightLayout, groups: RowGroups,
    into gradWeights: TensorView, accumulate: Bool
  ) throws(EngineError) {
    let ranges = try GroupRanges(
      groups, groupCount: gradWeights.shape[0], rowCount: groups.rowLimit(rows, gradOut))
    let target = GradientTarget(gradWeights, accumulate: accumulate)
    prepareOutputs(gradWeights)
    switch rows.tensor.dtype {
    case .f32: weightGradient(Float.self, gradOut, rows, layout, ranges, target)
    case .f64: weightGradient(Double.self, gradOut, rows, layout, ranges, target)
    case .bf16: weightGradient(BFloat16.self, gradOut, rows, layout, ranges, target)
    case .f16, .i32, .i64:
      throw Self.unsupported(rows.tensor.dtype, by: "the grouped GEMM's gradient")
    }
  }

  private func weightGradient<S: RowScalar>(
    _: S.Type, _ gradOut: ExpertRows, _ rows: ExpertRows, _ layout: WeightLayout,
    _ groups: GroupRanges, _ target: GradientTarget
  ) {
    make(
      WeightGradient<S>(
        S.kernel(of: kernels), layout, gradOut: IndexedRows(gradOut), rows: IndexedRows(rows),
        into: target), groups)
  }

  /// Computes a weight gradient on all threads.
  func make<S: RowScalar>(_ gradient: WeightGradient<S>, _ groups: GroupRanges) {
    forEachItem(of: gradientItems(groups, gradient), depth: gradient.width) {
      gradient.run($0, on: $1)
    }
  }

  private func multiply<S: RowScalar>(
    _: S.Type, _ rows: ExpertRows, _ weights: TensorView, _ layout: WeightLayout,
    _ bias: TensorView?, _ groups: GroupRanges, _ out: ExpertRows
  ) {
    let kernel = S.kernel(of: kernels)
    let weights = WeightMatrices<S>(weights, layout: layout)
    let rows = IndexedRows<S>(rows)
    let out = IndexedRows<S>(out)
    let bias = bias.map { Elements<S>($0) }
    forEachItem(of: productItems(groups, weights), depth: weights.inputs) { item, bench in
      let target = ProductTarget<S>(
        rows: out.targets(item.rows, on: bench, for: .targetAddresses),
        firstColumn: item.features.lowerBound)
      let bias = bias?.row(item.group, width: weights.outputs)[item.features]
      RowsProduct(
        kernel: kernel, bench: bench, weights: weights[item.group][item.features],
        targets: [target]
      ).multiply(
        rows.addresses(item.rows, tileRows: kernel.rows, on: bench, for: .rowAddresses)
      ) { $0.store(into: target, bias: bias) }
    }
  }
}

extension RowGroups {
  /// The most rows that the groups can have: those of a tensor in order, or of the index.
  fileprivate func rowLimit(_ rows: ExpertRows, _ other: ExpertRows) -> Int {
    min(rows.capacity, other.capacity)
  }
}
