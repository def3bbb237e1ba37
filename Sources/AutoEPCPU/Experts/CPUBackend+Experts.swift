import AutoEPCore
import AutoEPSystem

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

  /// Turns the gradient of the experts' results in `gradRows` into that of their rows, and makes those
  /// of the weights but gate/up's.
  public func expertsBackward(
    _ configuration: ExpertsConfiguration, _ weights: ExpertsWeights, rowsPerExpert: TensorView,
    hidden: TensorView, gradRows: OrderedRows, gradHidden: TensorView, activated: TensorView,
    gradients: ExpertsGradients
  ) throws(EngineError) {
    let groups = try RowGroups(
      rowsPerExpert, groupCount: weights.down.shape[0], rowCount: hidden.shape[0])
    prepareOutputs(gradHidden, activated, gradients.down)
    switch configuration.dtype {
    case .f32:
      backward(
        ExpertsBackward<Float>(
          configuration, kernels, weights, hidden: hidden, gradRows: gradRows,
          gradHidden: gradHidden, activated: activated), groups, gradients)
    case .f64:
      backward(
        ExpertsBackward<Double>(
          configuration, kernels, weights, hidden: hidden, gradRows: gradRows,
          gradHidden: gradHidden, activated: activated), groups, gradients)
    case .bf16:
      backward(
        ExpertsBackward<BFloat16>(
          configuration, kernels, weights, hidden: hidden, gradRows: gradRows,
          gradHidden: gradHidden, activated: activated), groups, gradients)
    case .f16, .i32, .i64: throw Self.unsupported(configuration.dtype, by: "the experts path")
    }
  }

  /// The gradient of gate/up's weights from that of the pre-activation.
  public func gateUpGradient(
    _ configuration: ExpertsConfiguration, rows: OrderedRows, rowsPerExpert: TensorView,
    gradHidden: TensorView, into gradGateUp: TensorView
  ) throws(EngineError) {
    let groups = try RowGroups(
      rowsPerExpert, groupCount: gradGateUp.shape[0], rowCount: gradHidden.shape[0])
    prepareOutputs(gradGateUp)
    let layout = configuration.weightLayout
    switch configuration.dtype {
    case .f32: gateUpGradient(Float.self, layout, gradHidden, rows, groups, gradGateUp)
    case .f64: gateUpGradient(Double.self, layout, gradHidden, rows, groups, gradGateUp)
    case .bf16: gateUpGradient(BFloat16.self, layout, gradHidden, rows, groups, gradGateUp)
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
    if let down = gradients.down { make(backward.downGradient(into: down), groups) }
    if let bias = gradients.gateUpBias { sumRows(backward.gradHiddenRows, groups, bias) }
    if let bias = gradients.downBias { sumRows(backward.gradRows, groups, bias) }
    let gateUpItems = productItems(groups, backward.gateUp.transposed)
    forEachItem(of: gateUpItems) { backward.multiplyByGateUp($0, on: $1) }
  }

  private func gateUpGradient<S: RowScalar>(
    _: S.Type, _ layout: WeightLayout, _ gradHidden: TensorView, _ rows: OrderedRows,
    _ groups: RowGroups, _ gradGateUp: TensorView
  ) {
    let gradient = WeightGradient<S>(
      S.kernel(of: kernels), layout, gradOut: IndexedRows(OrderedRows(gradHidden)),
      rows: IndexedRows(rows), into: gradGateUp)
    make(gradient, groups)
  }
}
