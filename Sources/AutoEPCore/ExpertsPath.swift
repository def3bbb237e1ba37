/// The experts of one layer, spread over the ranks of a dispatcher: permute, dispatch, experts,
/// combine, unpermute. Legend as in autoep.h.
public struct ExpertsPath {
  let configuration: ExpertsConfiguration
  let backend: any HostBackend
  let dispatcher: any TokenDispatcher

  /// A layer's path on one backend and one dispatcher.
  public init(
    _ configuration: ExpertsConfiguration, backend: any HostBackend,
    dispatcher: any TokenDispatcher
  ) {
    self.configuration = configuration
    self.backend = backend
    self.dispatcher = dispatcher
  }

  /// y [T,H] of x [T,H]; fills `saved` for the backward.
  public func forward(
    _ plan: DispatchPlan, _ weights: ExpertsWeights, x: TensorView, topkWeights: TensorView,
    saved: ExpertsSaved, into y: TensorView, arena: inout Arena
  ) throws(EngineError) {
    try dispatcher.dispatch(
      x, weights: weightsOnInput(topkWeights), plan: plan, into: saved.rows, arena: &arena)
    if plan.isLocal {
      try experts(plan, weights, saved, into: saved.expertRows, arena: &arena)
    } else {
      let results = try arena.take(saved.rows.shape, configuration.dtype)
      try experts(plan, weights, saved, into: results, arena: &arena)
      try dispatcher.combine(results, plan: plan, into: saved.expertRows, arena: &arena)
    }
    try backend.unpermute(
      saved.expertRows, rowOfSlot: plan.rowOfSlot.view, weights: weightsOnOutput(topkWeights),
      into: y)
  }

  /// gate/up grouped GEMM, activation, down grouped GEMM.
  private func experts(
    _ plan: DispatchPlan, _ weights: ExpertsWeights, _ saved: ExpertsSaved,
    into results: TensorView, arena: inout Arena
  ) throws(EngineError) {
    try arena.scope { (arena) throws(EngineError) in
      try backend.groupedGEMM(
        saved.rows, weights: weights.gateUp, layout: configuration.weightLayout,
        bias: weights.gateUpBias, rowsPerGroup: plan.rowsPerExpert.view, into: saved.hidden)
      let activated = try arena.take(
        [plan.rowsReceived, configuration.ffnSize], configuration.dtype)
      try backend.activate(configuration, hidden: saved.hidden, into: activated)
      try backend.groupedGEMM(
        activated, weights: weights.down, layout: configuration.weightLayout,
        bias: weights.downBias, rowsPerGroup: plan.rowsPerExpert.view, into: results)
    }
  }

  func weightsOnInput(_ topkWeights: TensorView) -> TensorView? {
    configuration.scoreApply == .before ? topkWeights : nil
  }

  func weightsOnOutput(_ topkWeights: TensorView) -> TensorView? {
    configuration.scoreApply == .after ? topkWeights : nil
  }
}
