import AutoEPSystem

/// The experts of one layer: plan, dispatch, experts, combine. One pass serves every device, number of ranks and
/// style of expert parallelism. See autoep.h for the shape legend.
public struct ExpertsLayer {
  /// What the experts compute.
  public let configuration: ExpertsConfiguration
  let backend: any ComputeBackend
  let dispatcher: any TokenDispatcher

  /// Makes a layer from a backend and a dispatcher.
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

    /// Combines the tensors: x and y are `[T,H]`, topkWeights `[T,K]`.
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

  /// Computes y from x, and fills `saved` for the backward.
  public func forward(
    _ plan: DispatchPlan, _ pass: Forward, _ arena: inout Arena
  ) throws(EngineError) {
    let saved = try Saved(self, plan, in: pass.saved)
    let results = try arena.take(
      [plan.rowsCapacity, configuration.hiddenSize], configuration.dtype)
    let rows = try dispatcher.dispatch(
      pass.x, weights: weightsOnInput(pass.topkWeights), plan, room: saved.inputs ?? results,
      &arena)
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
