import AutoEPSystem

/// The experts of one layer, spread over the ranks of a dispatcher: dispatch, experts, combine.
/// Legend as in autoep.h.
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

  /// Rows of `ExpertsSaved.rows`: none where the experts read them from x.
  public static func savedRows(_ plan: DispatchPlan, _ configuration: ExpertsConfiguration) -> Int {
    plan.isLocal && configuration.scoreApply == .after ? 0 : plan.rowsReceived
  }

  /// y [T,H] of x [T,H]; fills `saved` for the backward.
  public func forward(
    _ plan: DispatchPlan, _ weights: ExpertsWeights, x: TensorView, topkWeights: TensorView,
    saved: ExpertsSaved, into y: TensorView, arena: inout Arena
  ) throws(EngineError) {
    if !readsRowsFromX(plan) {
      try dispatcher.dispatch(
        x, weights: weightsOnInput(topkWeights), plan: plan, into: saved.rows, arena: &arena)
    }
    let rows = rows(plan, x: x, saved)
    if plan.isLocal {
      try experts(plan, weights, rows, saved, into: OrderedRows(saved.expertRows))
    } else {
      let results = try arena.take(saved.rows.shape, configuration.dtype)
      let ordered = OrderedRows(results, index: plan.sourceOfRow.view)
      try experts(plan, weights, rows, saved, into: ordered)
      try dispatcher.combine(results, plan: plan, into: saved.expertRows)
    }
    try backend.unpermute(
      saved.expertRows, rowOfSlot: plan.rowOfSlot.view, weights: weightsOnOutput(topkWeights),
      into: y)
  }

  private func experts(
    _ plan: DispatchPlan, _ weights: ExpertsWeights, _ rows: OrderedRows, _ saved: ExpertsSaved,
    into results: OrderedRows
  ) throws(EngineError) {
    try backend.expertsForward(
      configuration, weights, rows: rows, rowsPerExpert: plan.rowsPerExpert.view,
      hidden: saved.hidden, into: results)
  }

  /// What the experts of this rank read, in expert order.
  func rows(_ plan: DispatchPlan, x: TensorView, _ saved: ExpertsSaved) -> OrderedRows {
    if readsRowsFromX(plan) { return OrderedRows(x, index: plan.sourceOfRow.view) }
    return OrderedRows(saved.rows, index: plan.isLocal ? nil : plan.sourceOfRow.view)
  }

  /// Rows that neither travel nor are weighted are read where they are.
  func readsRowsFromX(_ plan: DispatchPlan) -> Bool {
    Self.savedRows(plan, configuration) < plan.rowsReceived
  }

  func weightsOnInput(_ topkWeights: TensorView) -> TensorView? {
    configuration.scoreApply == .before ? topkWeights : nil
  }

  func weightsOnOutput(_ topkWeights: TensorView) -> TensorView? {
    configuration.scoreApply == .after ? topkWeights : nil
  }
}
