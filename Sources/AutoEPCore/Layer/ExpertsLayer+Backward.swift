import AutoEPSystem

extension ExpertsLayer {
  /// The tensors of a backward.
  public struct Backward {
    let weights: ExpertsWeights
    let gradY: TensorView
    let x: TensorView?
    let topkWeights: TensorView
    let saved: Arena
    let overwritesSaved: Bool
    let gradX: TensorView?
    let gradTopkWeights: TensorView?
    let gradients: ExpertsGradients

    /// Combines the tensors: gradY, x and gradX are `[T,H]`, topkWeights and its gradient `[T,K]`. x may be nil if the
    /// backward does not read it, and a gradient if it is not wanted.
    public init(
      weights: ExpertsWeights, gradY: TensorView, x: TensorView?, topkWeights: TensorView,
      saved: Arena, overwritesSaved: Bool, gradX: TensorView?, gradTopkWeights: TensorView?,
      gradients: ExpertsGradients
    ) {
      self.weights = weights
      self.gradY = gradY
      self.x = x
      self.topkWeights = topkWeights
      self.saved = saved
      self.overwritesSaved = overwritesSaved
      self.gradX = gradX
      self.gradTopkWeights = gradTopkWeights
      self.gradients = gradients
    }
  }

  /// Computes the gradients of `forward`, its steps reversed. The gradient of gate/up's weights comes last, because
  /// the other steps use its memory as scratch.
  public func backward(
    _ plan: DispatchPlan, _ pass: Backward, _ arena: inout Arena
  ) throws(EngineError) {
    let experts = ExpertsCall(configuration, pass.weights, groups: plan.groups)
    let saved = try Saved(self, plan, in: pass.saved)
    let memory = try backwardMemory(plan, pass, &arena)
    let gradHidden = memory.gradHidden ?? saved.hidden

    try memory.exchanging { (arena) throws(EngineError) in
      let gradRows = try dispatcher.dispatch(
        pass.gradY, weights: nil, plan, room: memory.arrived ?? memory.gradInputs, &arena)
      let rowWeights = memory.rowWeights
      if let rowWeights {
        try dispatcher.sendValues(pass.topkWeights, plan, into: rowWeights, &arena)
      }
      let dots = try backend.expertsBackward(
        experts,
        ExpertsGradient(
          gradRows: gradRows, rowWeights: rowWeights.map { ExpertRows($0, plan.placement) },
          hidden: saved.hidden, gradHidden: gradHidden, activated: memory.activated,
          dots: memory.dots.map { ExpertRows($0, plan.placement) },
          gradInputs: ExpertRows(memory.gradInputs, plan.placement),
          wantsGradInputs: pass.wantsGradInputs(configuration), gradients: pass.gradients))
      if let dots, let gradTopkWeights = pass.gradTopkWeights {
        try dispatcher.sendBack(dots, plan, into: gradTopkWeights, &arena)
      }
      if pass.wantsGradInputs(configuration) {
        try dispatcher.combine(
          memory.gradInputs, weights: weightsOnInput(pass.topkWeights), plan, into: pass.gradX,
          dots: inputDots(pass), &arena)
      }
    }
    try gateUpGradient(experts, plan, pass, saved, memory, gradHidden: gradHidden, &arena)
  }

  /// If weights multiply the input, their gradient is ⟨x, gradient of the weighted input⟩, computed at the token.
  private func inputDots(_ pass: Backward) -> SlotDots? {
    guard configuration.applyWeights == .before, let x = pass.x, let into = pass.gradTopkWeights
    else {
      return nil
    }
    return SlotDots(tokens: x, into: into)
  }

  private func gateUpGradient(
    _ experts: ExpertsCall, _ plan: DispatchPlan, _ pass: Backward, _ saved: Saved,
    _ memory: BackwardMemory, gradHidden: TensorView, _ arena: inout Arena
  ) throws(EngineError) {
    guard let gradGateUp = pass.gradients.gateUp else { return }
    let rows: ExpertRows
    if let inputs = saved.inputs {
      rows = ExpertRows(inputs, plan.arrived.map { .tokens($0.slots) } ?? plan.placement)
    } else if let x = pass.x {
      rows = try dispatcher.dispatch(
        x, weights: weightsOnInput(pass.topkWeights), plan, room: memory.gradInputs, &arena)
    } else {
      throw EngineError(.internal, "the backward of a single rank needs x")
    }
    try backend.gateUpGradient(
      experts, rows: rows, room: memory.gradInputs, gradHidden: gradHidden, into: gradGateUp,
      accumulate: pass.gradients.accumulate, &arena)
  }
}

extension ExpertsLayer.Backward {
  /// The properties that decide how much scratch memory the backward needs.
  public var needs: ExpertsLayer.BackwardNeeds {
    ExpertsLayer.BackwardNeeds(
      overwritesSaved: overwritesSaved,
      lendsGateUp: gradients.gateUp != nil && !gradients.accumulate, lendsGradX: gradX != nil)
  }

  /// Whether the gradient of the experts' inputs is needed, for x or for weights that multiply it.
  func wantsGradInputs(_ configuration: ExpertsConfiguration) -> Bool {
    gradX != nil || (configuration.applyWeights == .before && gradTopkWeights != nil)
  }
}
