extension ExpertsPath {
  /// The gradients of `forward`: each line undoes one of its, last first.
  ///
  /// `x` is read for weights on the input only. `gradTopkWeights` nil: not wanted.
  public func backward(
    _ plan: DispatchPlan, _ weights: ExpertsWeights, gradY: TensorView, x: TensorView?,
    topkWeights: TensorView, saved: ExpertsSaved, into gradX: TensorView,
    gradTopkWeights: TensorView?, gradients: ExpertsGradients, arena: inout Arena
  ) throws(EngineError) {
    let rowOfSlot = plan.rowOfSlot.view
    let weightsOnInput = weightsOnInput(topkWeights)
    if let gradTopkWeights, weightsOnInput == nil {
      try backend.slotDot(gradY, saved.expertRows, rowOfSlot: rowOfSlot, into: gradTopkWeights)
    }
    // The gradient of the experts' output, and later that of their input.
    let gradRows = try arena.take(saved.rows.shape, configuration.dtype)
    try dispatcher.dispatch(
      gradY, weights: weightsOnOutput(topkWeights), plan: plan, into: gradRows, arena: &arena)
    try expertsBackward(plan, weights, saved, gradRows: gradRows, gradients, arena: &arena)
    let gradCopies = try arena.take(saved.expertRows.shape, configuration.dtype)
    try dispatcher.combine(gradRows, plan: plan, into: gradCopies, arena: &arena)
    if let gradTopkWeights, weightsOnInput != nil, let x {
      try backend.slotDot(x, gradCopies, rowOfSlot: rowOfSlot, into: gradTopkWeights)
    }
    try backend.unpermute(gradCopies, rowOfSlot: rowOfSlot, weights: weightsOnInput, into: gradX)
  }

  /// Turns the gradient of the experts' output in `gradRows` into that of their input.
  private func expertsBackward(
    _ plan: DispatchPlan, _ weights: ExpertsWeights, _ saved: ExpertsSaved,
    gradRows: TensorView, _ gradients: ExpertsGradients, arena: inout Arena
  ) throws(EngineError) {
    try arena.scope { (arena) throws(EngineError) in
      let gradHidden = try arena.take(saved.hidden.shape, configuration.dtype)
      try downBackward(
        plan, weights, saved, gradRows: gradRows, gradients, into: gradHidden, arena: &arena)
      try weightGradients(
        plan, gradOut: gradHidden, rows: saved.rows, into: gradients.gateUp,
        bias: gradients.gateUpBias)
      try backend.groupedGEMM(
        gradHidden, weights: weights.gateUp, layout: configuration.weightLayout.transposed,
        bias: nil, rowsPerGroup: plan.rowsPerExpert.view, into: gradRows)
    }
  }

  /// From the gradient of the experts' output to that of the pre-activation.
  private func downBackward(
    _ plan: DispatchPlan, _ weights: ExpertsWeights, _ saved: ExpertsSaved,
    gradRows: TensorView, _ gradients: ExpertsGradients, into gradHidden: TensorView,
    arena: inout Arena
  ) throws(EngineError) {
    try arena.scope { (arena) throws(EngineError) in
      // The activation is computed again rather than kept; its gradient then takes its place.
      let activated = try arena.take(
        [plan.rowsReceived, configuration.ffnSize], configuration.dtype)
      if gradients.down != nil {
        try backend.activate(configuration, hidden: saved.hidden, into: activated)
      }
      try weightGradients(
        plan, gradOut: gradRows, rows: activated, into: gradients.down, bias: gradients.downBias)
      try backend.groupedGEMM(
        gradRows, weights: weights.down, layout: configuration.weightLayout.transposed, bias: nil,
        rowsPerGroup: plan.rowsPerExpert.view, into: activated)
      try backend.activateBackward(
        configuration, hidden: saved.hidden, gradOut: activated, into: gradHidden)
    }
  }

  private func weightGradients(
    _ plan: DispatchPlan, gradOut: TensorView, rows: TensorView, into weight: TensorView?,
    bias: TensorView?
  ) throws(EngineError) {
    if let weight {
      try backend.groupedGEMMWeightGradient(
        gradOut: gradOut, rows: rows, layout: configuration.weightLayout,
        rowsPerGroup: plan.rowsPerExpert.view, into: weight)
    }
    if let bias {
      try backend.groupedRowSum(gradOut, rowsPerGroup: plan.rowsPerExpert.view, into: bias)
    }
  }
}
