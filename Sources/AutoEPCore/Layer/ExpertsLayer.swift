import AutoEPSystem

/// The experts of one layer, wherever they are: plan, dispatch, experts, combine. The one pass for every device,
/// number of ranks and style of expert parallelism. Legend as in autoep.h.
public struct ExpertsLayer {
  /// What the experts compute.
  public let configuration: ExpertsConfiguration
  let backend: any ComputeBackend
  let dispatcher: any TokenDispatcher

  /// A layer on one backend and one dispatcher.
  public init(
    _ configuration: ExpertsConfiguration, backend: any ComputeBackend,
    dispatcher: any TokenDispatcher
  ) {
    self.configuration = configuration
    self.backend = backend
    self.dispatcher = dispatcher
  }

  /// The tensors of a forward.
  public struct Forward {
    let weights: ExpertsWeights
    let x: TensorView
    let topkWeights: TensorView
    let saved: Arena
    let y: TensorView

    /// Gathers them: x and y `[T,H]`, topkWeights `[T,K]`.
    public init(
      weights: ExpertsWeights, x: TensorView, topkWeights: TensorView, saved: Arena, y: TensorView
    ) {
      self.weights = weights
      self.x = x
      self.topkWeights = topkWeights
      self.saved = saved
      self.y = y
    }
  }

  /// y of x; fills `saved` for the backward.
  public func forward(
    _ plan: DispatchPlan, _ pass: Forward, _ arena: inout Arena
  ) throws(EngineError) {
    let saved = try Saved(self, plan, in: pass.saved)
    let results = try arena.take(
      [plan.rowsCapacity, configuration.hiddenSize], configuration.dtype)
    let rows = try dispatcher.dispatch(
      pass.x, weights: weightsOnInput(pass.topkWeights), plan, room: saved.rows ?? results, &arena)
    try arena.scope { (arena) throws(EngineError) in
      try backend.expertsForward(
        ExpertsCall(configuration, pass.weights, groups: plan.groups), rows: rows,
        hidden: saved.hidden, into: ExpertRows(results, plan.placement), &arena)
    }
    try dispatcher.combine(
      results, weights: weightsOnOutput(pass.topkWeights), plan, into: pass.y, dots: nil, &arena)
  }

  func weightsOnInput(_ topkWeights: TensorView) -> TensorView? {
    configuration.applyWeights == .before ? topkWeights : nil
  }

  func weightsOnOutput(_ topkWeights: TensorView) -> TensorView? {
    configuration.applyWeights == .after ? topkWeights : nil
  }
}
