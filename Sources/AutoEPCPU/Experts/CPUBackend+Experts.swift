import AutoEPCore

extension CPUBackend {
  /// The experts of a rank, forward.
  public func expertsForward(
    _ configuration: ExpertsConfiguration, _ weights: ExpertsWeights, rows: OrderedRows,
    rowsPerExpert: TensorView, hidden: TensorView, into results: OrderedRows
  ) throws(EngineError) {
    let groups = try RowGroups(
      rowsPerExpert, groupCount: weights.down.shape[0], rowCount: hidden.shape[0])
    prepareOutputs(hidden, results.tensor)
    switch configuration.dtype {
    case .f32: forward(Float.self, configuration, weights, rows, groups, hidden, results)
    case .f64: forward(Double.self, configuration, weights, rows, groups, hidden, results)
    case .bf16: forward(BFloat16.self, configuration, weights, rows, groups, hidden, results)
    case .f16, .i32, .i64: throw Self.unsupported(configuration.dtype, by: "the experts path")
    }
  }

  /// Turns the gradient of the experts' results in `gradRows` into that of their rows.
  public func expertsBackward(
    _ configuration: ExpertsConfiguration, _ weights: ExpertsWeights, rows: OrderedRows,
    rowsPerExpert: TensorView, hidden: TensorView, gradRows: OrderedRows, gradHidden: TensorView,
    activated: TensorView, gradients: ExpertsGradients
  ) throws(EngineError) {
    let groups = try RowGroups(
      rowsPerExpert, groupCount: weights.down.shape[0], rowCount: hidden.shape[0])
    prepareOutputs(gradHidden, activated, gradients.gateUp, gradients.down)
    switch configuration.dtype {
    case .f32:
      backward(
        ExpertsBackward<Float>(
          configuration, kernels, weights, rows: rows, hidden: hidden, gradRows: gradRows,
          gradHidden: gradHidden, activated: activated), groups, gradients)
    case .f64:
      backward(
        ExpertsBackward<Double>(
          configuration, kernels, weights, rows: rows, hidden: hidden, gradRows: gradRows,
          gradHidden: gradHidden, activated: activated), groups, gradients)
    case .bf16:
      backward(
        ExpertsBackward<BFloat16>(
          configuration, kernels, weights, rows: rows, hidden: hidden, gradRows: gradRows,
          gradHidden: gradHidden, activated: activated), groups, gradients)
    case .f16, .i32, .i64: throw Self.unsupported(configuration.dtype, by: "the experts path")
    }
  }

  private func forward<S: RowScalar>(
    _: S.Type, _ configuration: ExpertsConfiguration, _ weights: ExpertsWeights,
    _ rows: OrderedRows, _ groups: RowGroups, _ hidden: TensorView, _ results: OrderedRows
  ) {
    let forward = ExpertsForward<S>(
      configuration, kernels, weights, rows: rows, hidden: hidden, results: results)
    let items = WorkItem.products(
      groups, features: 0, rowUnit: S.kernel(of: kernels).lanes, threadCount: pool.threadCount)
    forEachItem(of: items) { forward.run($0, on: $1) }
  }

  private func backward<S: RowScalar>(
    _ backward: ExpertsBackward<S>, _ groups: RowGroups, _ gradients: ExpertsGradients
  ) {
    let activationItems = productItems(groups, backward.down.transposed)
    forEachItem(of: activationItems) { backward.differentiateActivation($0, on: $1) }
    if let gateUp = gradients.gateUp {
      let rows = IndexedRows(Elements<S>(gateUp), width: gateUp.shape[2])
      forEachItem(of: gradientItems(groups, gateUp)) {
        backward.gateUpGradient($0, into: rows, on: $1)
      }
    }
    if let down = gradients.down {
      let rows = IndexedRows(Elements<S>(down), width: down.shape[2])
      forEachItem(of: gradientItems(groups, down)) {
        backward.downGradient($0, into: rows, on: $1)
      }
    }
    if let bias = gradients.gateUpBias { sumRows(backward.gradHiddenRows, groups, bias) }
    if let bias = gradients.downBias { sumRows(backward.gradRows, groups, bias) }
    let gateUpItems = productItems(groups, backward.gateUp.transposed)
    forEachItem(of: gateUpItems) { backward.multiplyByGateUp($0, on: $1) }
  }
}
