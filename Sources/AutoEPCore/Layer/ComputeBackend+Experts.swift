import AutoEPSystem

/// The experts composed of single steps: the default of every backend, and the reference for fused steps.
extension ComputeBackend {
  /// The bytes of the activation's result.
  public func expertsForwardBytes(_ configuration: ExpertsConfiguration, rowsCapacity: Int) -> Int {
    Arena.footprint([rowsCapacity, configuration.ffnSize], configuration.dtype)
  }

  /// Computes a grouped GEMM's weight gradient.
  public func gateUpGradient(
    _ experts: ExpertsCall, rows: ExpertRows, room: TensorView?, gradHidden: TensorView,
    into gradGateUp: TensorView, accumulate: Bool, _ arena: inout Arena
  ) throws(EngineError) {
    try composedGateUpGradient(
      experts, rows: rows, room: room, gradHidden: gradHidden, into: gradGateUp,
      accumulate: accumulate)
  }

  /// None.
  public func gateUpGradientBytes(_ configuration: ExpertsConfiguration, rowsCapacity: Int) -> Int {
    0
  }

  /// `gateUpGradient` as single steps, also on a backend that overrides it.
  public func composedGateUpGradient(
    _ experts: ExpertsCall, rows: ExpertRows, room: TensorView?, gradHidden: TensorView,
    into gradGateUp: TensorView, accumulate: Bool
  ) throws(EngineError) {
    try groupedGEMMWeightGradient(
      gradOut: ExpertRows(gradHidden), rows: readable(rows, room: room),
      layout: experts.configuration.weightLayout, groups: experts.groups, into: gradGateUp,
      accumulate: accumulate)
  }

  /// `expertsForward` as single steps, also on a backend that overrides it.
  public func composedExpertsForward(
    _ experts: ExpertsCall, rows: ExpertRows, hidden: TensorView, into results: ExpertRows,
    _ arena: inout Arena
  ) throws(EngineError) {
    let (configuration, weights) = (experts.configuration, experts.weights)
    let activated = try arena.take([hidden.shape[0], configuration.ffnSize], configuration.dtype)
    try groupedGEMM(
      readable(rows, room: results.tensor), weights: weights.gateUp,
      layout: configuration.weightLayout, bias: weights.gateUpBias, groups: experts.groups,
      into: ExpertRows(hidden))
    try activate(configuration, hidden: hidden, groups: experts.groups, into: activated)
    try groupedGEMM(
      ExpertRows(activated), weights: weights.down, layout: configuration.weightLayout,
      bias: weights.downBias, groups: experts.groups, into: results)
  }

  /// `expertsBackward` as single steps, also on a backend that overrides it.
  public func composedExpertsBackward(
    _ experts: ExpertsCall, _ call: ExpertsGradient
  ) throws(EngineError) -> TensorView? {
    let configuration = experts.configuration
    let layout = configuration.weightLayout
    // One part per row, at the start of the dots' memory.
    let dots = call.dots.map { dots in
      ExpertRows(
        TensorView(
          dots.tensor.storage, shape: [dots.tensor.shape[0], 1], dtype: dots.tensor.dtype),
        dots.placement)
    }
    let gradRows = try readable(call.gradRows, room: call.gradInputs.tensor)
    // `activated` first holds the gradient of the activation.
    try groupedGEMM(
      gradRows, weights: experts.weights.down, layout: layout.transposed, bias: nil,
      groups: experts.groups, into: ExpertRows(call.activated))
    try activateBackward(
      configuration, groups: experts.groups,
      ActivationGradient(
        hidden: call.hidden, gradOut: call.activated, rowWeights: call.rowWeights,
        gradRows: gradRows, downBias: experts.weights.downBias, gradHidden: call.gradHidden,
        activated: call.gradients.down == nil ? nil : call.activated, dots: dots))
    try downAndBiasGradients(experts, call, gradRows: gradRows)
    try inputGradient(experts, call)
    return dots?.tensor
  }

  /// Computes the gradients of the down projection and of both biases from the results of the activation's backward.
  public func downAndBiasGradients(
    _ experts: ExpertsCall, _ call: ExpertsGradient, gradRows: ExpertRows
  ) throws(EngineError) {
    let gradients = call.gradients
    if let down = gradients.down {
      try groupedGEMMWeightGradient(
        gradOut: gradRows, rows: ExpertRows(call.activated),
        layout: experts.configuration.weightLayout, groups: experts.groups, into: down,
        accumulate: gradients.accumulate)
    }
    if let downBias = gradients.downBias {
      try groupedRowSum(
        gradRows, weights: call.rowWeights, groups: experts.groups, into: downBias,
        accumulate: gradients.accumulate)
    }
    if let gateUpBias = gradients.gateUpBias {
      try groupedRowSum(
        ExpertRows(call.gradHidden), weights: nil, groups: experts.groups, into: gateUpBias,
        accumulate: gradients.accumulate)
    }
  }

  /// Computes the gradient of the inputs from that of the pre-activation.
  public func inputGradient(
    _ experts: ExpertsCall, _ call: ExpertsGradient
  ) throws(EngineError) {
    guard call.wantsGradInputs else { return }
    try groupedGEMM(
      ExpertRows(call.gradHidden), weights: experts.weights.gateUp,
      layout: experts.configuration.weightLayout.transposed, bias: nil, groups: experts.groups,
      into: call.gradInputs)
  }

  /// The rows in a placement that this backend's products can read: in place, or copied into `room`.
  public func readable(_ rows: ExpertRows, room: TensorView?) throws(EngineError) -> ExpertRows {
    guard !readsPlacedRows, let room else { return rows }
    switch rows.placement {
    case .inOrder: return rows
    case .tokens(let slots):
      try permute(rows.tensor, rowOfSlot: slots.rowOfSlot, weights: nil, into: room)
      return ExpertRows(room)
    case .indexed:
      throw EngineError(
        .internal, "products on this device cannot read indexed rows; copy them first")
    }
  }
}
