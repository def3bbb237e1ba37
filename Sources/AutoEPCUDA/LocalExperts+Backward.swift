import AutoEPCore

extension LocalExperts {
  /// The gradients, given what `forward` saved: from the experts' output to the pre-activation, and
  /// on to the input.
  public func backward(
    _ weights: ExpertsWeights, gradY: TensorView, x: TensorView, topkWeights: TensorView,
    routing: Arena, hidden: TensorView, gradX: TensorView?, gradTopkWeights: TensorView?,
    gradients: ExpertsGradients, accumulate: Bool, arena: inout Arena
  ) throws(EngineError) {
    let pass = BackwardPass(
      weights: weights, topkWeights: topkWeights, routing: try metadata(routing), hidden: hidden,
      gradients: gradients, accumulate: accumulate)
    let rows = try arena.take(rowsShape, configuration.dtype)
    let gradHidden = try arena.take(hiddenShape, configuration.dtype)
    try backend.permute(gradY, rowOfSlot: pass.routing.rowOfSlot, weights: nil, into: rows)
    try downBackward(
      pass, gradRows: rows, gradTopkWeights: gradTopkWeights, into: gradHidden, arena: &arena)
    try gateUpGradients(pass, x: x, gradHidden: gradHidden, rows: rows)
    try inputBackward(
      pass, x: x, gradHidden: gradHidden, rows: rows, gradTopkWeights: gradTopkWeights,
      into: gradX)
  }

  /// From the gradient of the experts' output, not yet weighted, to that of the pre-activation, with
  /// the gradients of the down projection and of weights that are applied behind it.
  private func downBackward(
    _ pass: BackwardPass, gradRows: TensorView, gradTopkWeights: TensorView?,
    into gradHidden: TensorView, arena: inout Arena
  ) throws(EngineError) {
    // Both of it: the gradient of the activation, then the activation again.
    let activated = try arena.take(activatedShape, configuration.dtype)
    let scores = weightsOnOutput(pass.topkWeights)
    try backend.groupedGEMM(
      gradRows, weights: pass.weights.down, layout: configuration.weightLayout.transposed,
      bias: nil, groups: pass.groups, into: activated)
    try backend.activateBackward(
      configuration, hidden: pass.hidden, gradOut: activated, routing: pass.routing,
      weights: scores, gradRows: gradRows, downBias: pass.weights.downBias, into: gradHidden,
      activated: pass.gradients.down == nil ? nil : activated,
      gradWeights: scores == nil ? nil : gradTopkWeights)
    if let down = pass.gradients.down {
      try backend.groupedGEMMWeightGradient(
        gradOut: gradRows, rows: activated, layout: configuration.weightLayout,
        groups: pass.groups, into: down, accumulate: pass.accumulate)
    }
    if let downBias = pass.gradients.downBias {
      try backend.groupedRowSum(
        gradRows, groups: pass.groups, slotOfRow: pass.routing.slotOfRow, weights: scores,
        into: downBias, accumulate: pass.accumulate)
    }
  }

  /// The gradients of the gate and up projections; their input is permuted again into `rows`.
  private func gateUpGradients(
    _ pass: BackwardPass, x: TensorView, gradHidden: TensorView, rows: TensorView
  ) throws(EngineError) {
    if let gateUp = pass.gradients.gateUp {
      try backend.permute(
        x, rowOfSlot: pass.routing.rowOfSlot, weights: weightsOnInput(pass.topkWeights),
        into: rows)
      try backend.groupedGEMMWeightGradient(
        gradOut: gradHidden, rows: rows, layout: configuration.weightLayout, groups: pass.groups,
        into: gateUp, accumulate: pass.accumulate)
    }
    if let gateUpBias = pass.gradients.gateUpBias {
      try backend.groupedRowSum(
        gradHidden, groups: pass.groups, slotOfRow: pass.routing.slotOfRow, weights: nil,
        into: gateUpBias, accumulate: pass.accumulate)
    }
  }

  /// The gradient of the input, and of weights that are applied to it.
  private func inputBackward(
    _ pass: BackwardPass, x: TensorView, gradHidden: TensorView, rows: TensorView,
    gradTopkWeights: TensorView?, into gradX: TensorView?
  ) throws(EngineError) {
    let scores = weightsOnInput(pass.topkWeights)
    let gradScores = scores == nil ? nil : gradTopkWeights
    if gradX == nil, gradScores == nil { return }
    try backend.groupedGEMM(
      gradHidden, weights: pass.weights.gateUp, layout: configuration.weightLayout.transposed,
      bias: nil, groups: pass.groups, into: rows)
    if let gradScores {
      try backend.slotDot(x, rows, rowOfSlot: pass.routing.rowOfSlot, into: gradScores)
    }
    if let gradX {
      try backend.unpermute(
        rows, rowOfSlot: pass.routing.rowOfSlot, weights: scores, into: gradX)
    }
  }
}

/// What the steps of one backward share.
private struct BackwardPass {
  let weights: ExpertsWeights
  let topkWeights: TensorView
  let routing: RoutingMetadata
  let hidden: TensorView
  let gradients: ExpertsGradients
  let accumulate: Bool

  var groups: DeviceGroups { .offsets(routing.expertOffsets) }
}
