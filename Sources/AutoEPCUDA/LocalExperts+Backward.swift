import AutoEPCore
import AutoEPSystem

extension LocalExperts {
  /// The gradients, given what `forward` saved: from the experts' output to the pre-activation, and
  /// on to the input. `gradHidden` may take the memory of `hidden`, `activated` that of the gate/up
  /// weights' gradient, unless this is added to, and `scratch` that of `gradX`.
  public func backward(
    _ weights: ExpertsWeights, gradY: TensorView, x: TensorView, topkWeights: TensorView,
    routing: Arena, hidden: TensorView, gradHidden: TensorView, activated: TensorView,
    gradX: TensorView?, gradTopkWeights: TensorView?,
    gradients: ExpertsGradients, accumulate: Bool, scratch: Arena, arena: inout Arena
  ) throws(EngineError) {
    let routing = try metadata(routing)
    let pass = BackwardPass(
      weights: weights, topkWeights: topkWeights, routing: routing, hidden: hidden,
      gradHidden: gradHidden, activated: activated, gradients: gradients, accumulate: accumulate,
      scratch: scratch, gemm: gemm(routing, weights, given: [hidden, gradHidden, activated]))
    let rows = try arena.take(rowsShape, configuration.dtype)
    try backend.permute(gradY, rowOfSlot: pass.routing.rowOfSlot, weights: nil, into: rows)
    try downBackward(pass, gradRows: rows, gradTopkWeights: gradTopkWeights)
    try gateUpGradients(pass, x: x, rows: rows, arena: &arena)
    try inputBackward(
      pass, x: x, rows: rows, gradTopkWeights: gradTopkWeights, into: gradX)
  }

  /// From the gradient of the experts' output, not yet weighted, to that of the pre-activation, with
  /// the gradients of the down projection and of weights that are applied behind it.
  private func downBackward(
    _ pass: BackwardPass, gradRows: TensorView, gradTopkWeights: TensorView?
  ) throws(EngineError) {
    let activated = pass.activated
    let scores = weightsOnOutput(pass.topkWeights)
    if let hopper = pass.gemm.hopper, fusesSwiGLU(pass.weights) {
      try swiGLUBackward(pass, hopper, gradRows: gradRows, gradTopkWeights: gradTopkWeights)
    } else {
      // `activated` is first the gradient of the activation.
      try pass.gemm.inputGradient(gradRows, pass.weights.down, into: activated)
      try backend.activateBackward(
        configuration, hidden: pass.hidden, gradOut: activated, routing: pass.routing,
        weights: scores, gradRows: gradRows, downBias: pass.weights.downBias,
        into: pass.gradHidden,
        activated: pass.gradients.down == nil ? nil : activated,
        gradWeights: scores == nil ? nil : gradTopkWeights)
    }
    if let down = pass.gradients.down {
      try pass.gemm.weightGradient(
        gradOut: gradRows, rows: activated, into: down, accumulate: pass.accumulate)
    }
    if let downBias = pass.gradients.downBias {
      try backend.groupedRowSum(
        gradRows, groups: pass.gemm.groups, slotOfRow: pass.routing.slotOfRow, weights: scores,
        into: downBias, accumulate: pass.accumulate)
    }
  }

  /// The same with the activation's gradient in the product.
  private func swiGLUBackward(
    _ pass: BackwardPass, _ hopper: HopperGEMM, gradRows: TensorView,
    gradTopkWeights: TensorView?
  ) throws(EngineError) {
    var scratch = pass.scratch
    let rowWeights = try scratch.take(rowWeightsShape, .f32)
    let dots = try scratch.take(dotsShape, .f32)
    try backend.rowWeights(
      pass.topkWeights, slotOfRow: pass.routing.slotOfRow, into: rowWeights)
    try hopper.swiGLUBackward(
      gradRows, pass.weights.down, configuration.weightLayout, hidden: pass.hidden,
      rowWeights: rowWeights, into: pass.gradHidden, activated: pass.activated, dots: dots)
    if let gradTopkWeights {
      try backend.gatherPartials(dots, rowOfSlot: pass.routing.rowOfSlot, into: gradTopkWeights)
    }
  }

  /// The gradients of the gate and up projections; their input is permuted again into `rows`.
  private func gateUpGradients(
    _ pass: BackwardPass, x: TensorView, rows: TensorView, arena: inout Arena
  ) throws(EngineError) {
    if let gateUp = pass.gradients.gateUp {
      try gateUpGradient(pass, x: x, rows: rows, into: gateUp, arena: &arena)
    }
    if let gateUpBias = pass.gradients.gateUpBias {
      try backend.groupedRowSum(
        pass.gradHidden, groups: pass.gemm.groups, slotOfRow: pass.routing.slotOfRow, weights: nil,
        into: gateUpBias, accumulate: pass.accumulate)
    }
  }

  private func gateUpGradient(
    _ pass: BackwardPass, x: TensorView, rows: TensorView, into gateUp: TensorView,
    arena: inout Arena
  ) throws(EngineError) {
    let scores = weightsOnInput(pass.topkWeights)
    if let hopper = pass.gemm.hopperWriting(gateUp), scores == nil, HopperGEMM.reaches([x]) {
      // The product permutes while it is at work.
      return try hopper.weightGradient(
        gradOut: pass.gradHidden, rows: rows,
        ahead: RowsAhead(x, into: rows, routing: pass.routing, &arena),
        configuration.weightLayout, into: gateUp, accumulate: pass.accumulate)
    }
    try backend.permute(x, rowOfSlot: pass.routing.rowOfSlot, weights: scores, into: rows)
    try pass.gemm.weightGradient(
      gradOut: pass.gradHidden, rows: rows, into: gateUp, accumulate: pass.accumulate)
  }

  /// The gradient of the input, and of weights that are applied to it.
  private func inputBackward(
    _ pass: BackwardPass, x: TensorView, rows: TensorView, gradTopkWeights: TensorView?,
    into gradX: TensorView?
  ) throws(EngineError) {
    let scores = weightsOnInput(pass.topkWeights)
    let gradScores = scores == nil ? nil : gradTopkWeights
    if gradX == nil, gradScores == nil { return }
    try pass.gemm.inputGradient(pass.gradHidden, pass.weights.gateUp, into: rows)
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
  let gradHidden: TensorView
  let activated: TensorView
  let gradients: ExpertsGradients
  let accumulate: Bool
  let scratch: Arena
  let gemm: ExpertsGEMM
}
