import AutoEPCore

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
    // The gradient of [in, out] is the outer product the other way round.
    let (left, right) = layout == .outIn ? (gradOut, rows) : (rows, gradOut)
    switch rows.dtype {
    case .f32: multiplyOuter(Elements<Float>(left), right, groups, gradWeights)
    case .f64: multiplyOuter(Elements<Double>(left), right, groups, gradWeights)
    case .bf16: multiplyOuter(Elements<BFloat16>(left), right, groups, gradWeights)
    case .f16, .i32, .i64: throw Self.unsupported(rows.dtype, by: "the grouped GEMM's gradient")
    }
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

  private func multiplyOuter<S: RowScalar>(
    _ left: Elements<S>, _ right: TensorView, _ groups: RowGroups, _ gradWeights: TensorView
  ) {
    let (features, width) = (gradWeights.shape[1], gradWeights.shape[2])
    let left = IndexedRows(left, width: features)
    let right = IndexedRows(Elements<S>(right), width: width)
    let out = IndexedRows(Elements<S>(gradWeights), width: width)
    forEachItem(of: gradientItems(groups, gradWeights)) { item, bench in
      OuterProduct<S>(kernel: S.kernel(of: kernels), bench: bench).multiply(
        left.addresses(item.rows, on: bench, for: .rowAddresses), features: item.features,
        by: right.addresses(item.rows, on: bench, for: .secondRowAddresses), width: width,
        into: out.targets(
          item.group * features..<(item.group + 1) * features, on: bench, for: .targetAddresses))
    }
  }
}
