import AutoEPCore
import AutoEPSystem

extension CPUBackend {
  /// out[r] = rows[r] · W[group of r] (+ bias); throws where the counts do not fit the rows.
  public func groupedGEMM(
    _ rows: TensorView, weights: TensorView, layout: WeightLayout, bias: TensorView?,
    rowsPerGroup: TensorView, into out: TensorView
  ) throws(EngineError) {
    let groups = try RowGroups(
      rowsPerGroup, groupCount: weights.shape[0], rowCount: rows.shape[0])
    prepareOutputs(out)
    switch rows.dtype {
    case .f32: multiply(Elements<Float>(rows), weights, layout, bias, groups, out)
    case .f64: multiply(Elements<Double>(rows), weights, layout, bias, groups, out)
    case .bf16: multiply(Elements<BFloat16>(rows), weights, layout, bias, groups, out)
    case .f16, .i32, .i64: throw Self.unsupported(rows.dtype, by: "grouped GEMM")
    }
  }

  /// For each group, Σ over its rows of gradOut[r] ⊗ rows[r].
  public func groupedGEMMWeightGradient(
    gradOut: TensorView, rows: TensorView, layout: WeightLayout, rowsPerGroup: TensorView,
    into gradWeights: TensorView
  ) throws(EngineError) {
    let groups = try RowGroups(
      rowsPerGroup, groupCount: gradWeights.shape[0], rowCount: rows.shape[0])
    prepareOutputs(gradWeights)
    switch rows.dtype {
    case .f32: weightGradient(Float.self, gradOut, rows, layout, groups, gradWeights)
    case .f64: weightGradient(Double.self, gradOut, rows, layout, groups, gradWeights)
    case .bf16: weightGradient(BFloat16.self, gradOut, rows, layout, groups, gradWeights)
    case .f16, .i32, .i64: throw Self.unsupported(rows.dtype, by: "the grouped GEMM's gradient")
    }
  }

  private func weightGradient<S: RowScalar>(
    _: S.Type, _ gradOut: TensorView, _ rows: TensorView, _ layout: WeightLayout,
    _ groups: RowGroups, _ gradWeights: TensorView
  ) {
    let gradient = WeightGradient<S>(
      S.kernel(of: kernels), layout, gradOut: IndexedRows(OrderedRows(gradOut)),
      rows: IndexedRows(OrderedRows(rows)), into: gradWeights)
    make(gradient, groups)
  }

  /// Shares the making of a gradient out over the threads.
  func make<S: RowScalar>(_ gradient: WeightGradient<S>, _ groups: RowGroups) {
    forEachItem(of: gradientItems(groups, gradient)) { gradient.run($0, on: $1) }
  }

  private func multiply<S: RowScalar>(
    _ rows: Elements<S>, _ weights: TensorView, _ layout: WeightLayout, _ bias: TensorView?,
    _ groups: RowGroups, _ out: TensorView
  ) {
    let kernel = S.kernel(of: kernels)
    let weights = WeightMatrices<S>(weights, layout: layout)
    let rows = IndexedRows(rows, width: weights.inputs)
    let out = IndexedRows(Elements<S>(out), width: weights.outputs)
    let bias = bias.map { Elements<S>($0) }
    forEachItem(of: productItems(groups, weights)) { item, bench in
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
