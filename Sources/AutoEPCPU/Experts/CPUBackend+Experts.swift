import AutoEPCore
import AutoEPSystem

/// Fused expert steps that keep rows in the cache: the forward computes both products for the rows of one item, and
/// the backward computes the activation's gradient inside its first product.
extension CPUBackend {
  /// Computes a rank's experts.
  public func expertsForward(
    _ experts: ExpertsCall, rows: ExpertRows, hidden: TensorView, into results: ExpertRows,
    _ arena: inout Arena
  ) throws(EngineError) {
    let groups = try ranges(experts, rowCount: hidden.shape[0])
    prepareOutputs(hidden, results.tensor)
    switch experts.configuration.dtype {
    case .f32:
      forward(
        ExpertsForward<Float>(experts, kernels, rows: rows, hidden: hidden, results: results),
        experts.configuration, groups)
    case .f64:
      forward(
        ExpertsForward<Double>(experts, kernels, rows: rows, hidden: hidden, results: results),
        experts.configuration, groups)
    case .bf16:
      forward(
        ExpertsForward<BFloat16>(experts, kernels, rows: rows, hidden: hidden, results: results),
        experts.configuration, groups)
    case .f16, .i32, .i64: throw Self.unsupported(experts.configuration.dtype, by: "the experts")
    }
  }

  /// None: the activations of an item's rows stay on a workbench.
  public func expertsForwardBytes(_ configuration: ExpertsConfiguration, rowsCapacity: Int) -> Int {
    0
  }

  /// Computes the gradient of the inputs and of all weights except gate/up's from that of the outputs.
  public func expertsBackward(
    _ experts: ExpertsCall, _ call: ExpertsGradient
  ) throws(EngineError) -> TensorView? {
    let groups = try ranges(experts, rowCount: call.hidden.shape[0])
    prepareOutputs(call.gradHidden, call.activated, call.gradInputs.tensor)
    switch experts.configuration.dtype {
    case .f32: try backward(ExpertsBackward<Float>(experts, call, kernels), experts, call, groups)
    case .f64: try backward(ExpertsBackward<Double>(experts, call, kernels), experts, call, groups)
    case .bf16:
      try backward(ExpertsBackward<BFloat16>(experts, call, kernels), experts, call, groups)
    case .f16, .i32, .i64: throw Self.unsupported(experts.configuration.dtype, by: "the experts")
    }
    return call.dots?.tensor
  }

  /// One part per vector of features.
  public func dotParts(_ configuration: ExpertsConfiguration) -> Int {
    configuration.dtype == .f64
      ? DotParts<Double>.count(configuration.ffnSize) : DotParts<Float>.count(configuration.ffnSize)
  }

  private func ranges(_ experts: ExpertsCall, rowCount: Int) throws(EngineError) -> GroupRanges {
    try GroupRanges(
      experts.groups, groupCount: experts.weights.down.shape[0], rowCount: rowCount)
  }

  private func forward<S: RowScalar>(
    _ forward: ExpertsForward<S>, _ configuration: ExpertsConfiguration, _ groups: GroupRanges
  ) {
    let items = WorkItem.products(
      groups, features: 0, rowUnit: S.kernel(of: kernels).lanes, threadCount: pool.threadCount)
    let (wide, isTooWide) = (configuration.gateUpSize + configuration.ffnSize)
      .multipliedReportingOverflow(by: configuration.hiddenSize)
    forEachItem(of: items, depth: isTooWide ? .max : wide) { forward.run($0, on: $1) }
  }

  private func backward<S: RowScalar>(
    _ backward: ExpertsBackward<S>, _ experts: ExpertsCall, _ call: ExpertsGradient,
    _ groups: GroupRanges
  ) throws(EngineError) {
    let activationItems = productItems(groups, backward.down.transposed)
    forEachItem(of: activationItems, depth: backward.down.transposed.inputs) {
      backward.differentiateActivation($0, on: $1)
    }
    if let dots = backward.dots, let downBias = experts.weights.downBias {
      addBiasDots(backward.gradRows, downBias, groups, dots)
    }
    try downAndBiasGradients(experts, call, gradRows: call.gradRows)
    guard call.wantsGradInputs else { return }
    let gateUpItems = productItems(groups, backward.gateUp.transposed)
    forEachItem(of: gateUpItems, depth: backward.gateUp.transposed.inputs) {
      backward.multiplyByGateUp($0, on: $1)
    }
  }
}
