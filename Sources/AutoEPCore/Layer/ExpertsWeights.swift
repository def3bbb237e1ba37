/// The weights of a rank's experts, or their gradients.
public struct ExpertsWeights {
  /// `[e,G,H]`, or `[e,H,G]` for `.inOut`.
  public let gateUp: TensorView
  /// `[e,G]`; nil for experts without bias.
  public let gateUpBias: TensorView?
  /// `[e,H,F]`, or `[e,F,H]` for `.inOut`.
  public let down: TensorView
  /// `[e,H]`; nil for experts without bias.
  public let downBias: TensorView?

  /// Combines the weights.
  public init(
    gateUp: TensorView, gateUpBias: TensorView?, down: TensorView, downBias: TensorView?
  ) {
    self.gateUp = gateUp
    self.gateUpBias = gateUpBias
    self.down = down
    self.downBias = downBias
  }
}

/// The targets of the gradients of a rank's experts; nil if not wanted.
public struct ExpertsGradients {
  /// Shaped like `ExpertsWeights.gateUp`.
  public let gateUp: TensorView?
  /// Shaped like `ExpertsWeights.gateUpBias`.
  public let gateUpBias: TensorView?
  /// Shaped like `ExpertsWeights.down`.
  public let down: TensorView?
  /// Shaped like `ExpertsWeights.downBias`.
  public let downBias: TensorView?
  /// Whether gradients are added to the targets, which are f32 (f64 for f64).
  public let accumulate: Bool

  /// Combines the targets, which have the weights' dtype or f32.
  public init(
    gateUp: TensorView?, gateUpBias: TensorView?, down: TensorView?, downBias: TensorView?,
    accumulate: Bool = false
  ) {
    self.accumulate = accumulate
    self.gateUp = gateUp
    self.gateUpBias = gateUpBias
    self.down = down
    self.downBias = downBias
  }
}
