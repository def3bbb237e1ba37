import AutoEPSystem

/// Brings tokens to the ranks of their experts and results back: the seam where the styles of
/// expert parallelism differ.
///
/// All ranks call each function in the same order.
public protocol TokenDispatcher: Sendable {
  /// Sorts the choices of `topkIdx [T,K]` and tells every rank what it will receive.
  func plan(topkIdx: TensorView, numExperts: Int) throws(EngineError) -> DispatchPlan

  /// rows [R,H] = the copies of x [T,H] for this rank's experts, in the order of their arrival; each
  /// multiplied by its weight of `weights` [T,K] where given.
  func dispatch(
    _ x: TensorView, weights: TensorView?, plan: DispatchPlan, into rows: TensorView,
    arena: inout Arena
  ) throws(EngineError)

  /// The way back: results [N,H], in expert order of the sender, from rows [R,H] in the order of their
  /// arrival.
  func combine(
    _ rows: TensorView, plan: DispatchPlan, into results: TensorView
  ) throws(EngineError)
}
