import AutoEPSystem

extension ExpertsPath {
  /// The gradients of `forward`: each line undoes one of its, last first.
  ///
  /// `gradTopkWeights` nil: not wanted. `gradHidden` may be the memory of `saved.hidden`; that of gate/up's
  /// gradient, which is made last, is worked in before.
  public func backward(
    _ plan: DispatchPlan, _ weights: ExpertsWeights, gradY: TensorView, x: TensorView,
    topkWeights: TensorView, saved: ExpertsSaved, gradHidden: TensorView, into gradX: TensorView,
    gradTopkWeights: TensorView?, gradients: ExpertsGradients, workspace: Arena
  ) throws(EngineError) {
    let rowOfSlot = plan.rowOfSlot.view
    let weightsOnInput = weightsOnInput(topkWeights)
    let layout = backwardLayout(plan, gateUpGradient: gradients.gateUp != nil)
    let memory = try BackwardMemory(layout, lender: gradients.gateUp, workspace: workspace)
    if let gradTopkWeights, weightsOnInput == nil {
      try backend.slotDot(gradY, saved.expertRows, rowOfSlot: rowOfSlot, into: gradTopkWeights)
    }
    try dispatch(gradY, weights: weightsOnOutput(topkWeights), plan, memory)
    try experts(plan, weights, saved, memory, gradHidden: gradHidden, gradients)
    let gradCopies = try copies(plan, memory)
    if let gradTopkWeights, weightsOnInput != nil {
      try backend.slotDot(x, gradCopies, rowOfSlot: rowOfSlot, into: gradTopkWeights)
    }
    try backend.unpermute(gradCopies, rowOfSlot: rowOfSlot, weights: weightsOnInput, into: gradX)
    try gateUp(plan, x: x, saved, gradHidden: gradHidden, gradients)
  }

  private func dispatch(
    _ gradY: TensorView, weights: TensorView?, _ plan: DispatchPlan, _ memory: BackwardMemory
  ) throws(EngineError) {
    var arena = Arena(memory.copies)
    try dispatcher.dispatch(
      gradY, weights: weights, plan: plan, into: memory.gradRows, arena: &arena)
  }

  private func experts(
    _ plan: DispatchPlan, _ weights: ExpertsWeights, _ saved: ExpertsSaved,
    _ memory: BackwardMemory, gradHidden: TensorView, _ gradients: ExpertsGradients
  ) throws(EngineError) {
    try backend.expertsBackward(
      configuration, weights, rowsPerExpert: plan.rowsPerExpert.view, hidden: saved.hidden,
      gradRows: OrderedRows(memory.gradRows, index: plan.isLocal ? nil : plan.sourceOfRow.view),
      gradHidden: gradHidden, activated: memory.activated, gradients: gradients)
  }

  private func gateUp(
    _ plan: DispatchPlan, x: TensorView, _ saved: ExpertsSaved, gradHidden: TensorView,
    _ gradients: ExpertsGradients
  ) throws(EngineError) {
    guard let gradGateUp = gradients.gateUp else { return }
    try backend.gateUpGradient(
      configuration, rows: rows(plan, x: x, saved), rowsPerExpert: plan.rowsPerExpert.view,
      gradHidden: gradHidden, into: gradGateUp)
  }

  /// What becomes of rows on the ranks that sent them.
  private func copies(
    _ plan: DispatchPlan, _ memory: BackwardMemory
  ) throws(EngineError) -> TensorView {
    if plan.isLocal { return memory.gradRows }
    try dispatcher.combine(memory.gradRows, plan: plan, into: memory.copies)
    return memory.copies
  }
}

/// What a layout's parts are in.
private struct BackwardMemory {
  let gradRows: TensorView
  let activated: TensorView
  let copies: TensorView

  init(
    _ layout: BackwardLayout, lender: TensorView?, workspace: Arena
  ) throws(EngineError) {
    let lender = Arena(lender)
    func tensor(_ part: BackwardLayout.Part) throws(EngineError) -> TensorView {
      let memory = part.isLent ? lender : workspace
      return try memory.tensor(part.shape, part.dtype, at: part.offset)
    }
    gradRows = try tensor(layout.gradRows)
    activated = try tensor(layout.activated)
    copies = try tensor(layout.copies)
  }
}
