extension ExpertsPath {
  /// The gradients of `forward`: each line undoes one of its, last first.
  ///
  /// `gradTopkWeights` nil: not wanted.
  public func backward(
    _ plan: DispatchPlan, _ weights: ExpertsWeights, gradY: TensorView, x: TensorView,
    topkWeights: TensorView, saved: ExpertsSaved, into gradX: TensorView,
    gradTopkWeights: TensorView?, gradients: ExpertsGradients, arena: inout Arena
  ) throws(EngineError) {
    let rowOfSlot = plan.rowOfSlot.view
    let weightsOnInput = weightsOnInput(topkWeights)
    if let gradTopkWeights, weightsOnInput == nil {
      try backend.slotDot(gradY, saved.expertRows, rowOfSlot: rowOfSlot, into: gradTopkWeights)
    }
    // The gradient of the experts' results, and later that of their rows.
    let gradRows = try arena.take(
      [plan.rowsReceived, configuration.hiddenSize], configuration.dtype)
    try dispatcher.dispatch(
      gradY, weights: weightsOnOutput(topkWeights), plan: plan, into: gradRows, arena: &arena)
    try experts(plan, weights, x: x, saved, gradRows: gradRows, gradients, arena: &arena)
    let gradCopies = try copies(plan, of: gradRows, arena: &arena)
    if let gradTopkWeights, weightsOnInput != nil {
      try backend.slotDot(x, gradCopies, rowOfSlot: rowOfSlot, into: gradTopkWeights)
    }
    try backend.unpermute(gradCopies, rowOfSlot: rowOfSlot, weights: weightsOnInput, into: gradX)
  }

  private func experts(
    _ plan: DispatchPlan, _ weights: ExpertsWeights, x: TensorView, _ saved: ExpertsSaved,
    gradRows: TensorView, _ gradients: ExpertsGradients, arena: inout Arena
  ) throws(EngineError) {
    try arena.scope { (arena) throws(EngineError) in
      let gradHidden = try arena.take(saved.hidden.shape, configuration.dtype)
      let activated = try arena.take(
        [plan.rowsReceived, configuration.ffnSize], configuration.dtype)
      try backend.expertsBackward(
        configuration, weights, rows: rows(plan, x: x, saved),
        rowsPerExpert: plan.rowsPerExpert.view, hidden: saved.hidden,
        gradRows: OrderedRows(gradRows, index: plan.isLocal ? nil : plan.sourceOfRow.view),
        gradHidden: gradHidden, activated: activated, gradients: gradients)
    }
  }

  /// What becomes of rows on the ranks that sent them.
  private func copies(
    _ plan: DispatchPlan, of rows: TensorView, arena: inout Arena
  ) throws(EngineError) -> TensorView {
    if plan.isLocal { return rows }
    let copies = try arena.take([plan.rowsSent, configuration.hiddenSize], configuration.dtype)
    try dispatcher.combine(rows, plan: plan, into: copies)
    return copies
  }
}
