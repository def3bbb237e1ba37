/// The weights of a rank's experts, or their gradients.
public struct ExpertsWeights {
  /// `[e,G,H]`, or `[e,H,G]` for `.inOut`.
  public let gateUp: TensorView
  /// `[e,G]`, nil for experts without.
  public let gateUpBias: TensorView?
  /// `[e,H,F]`, or `[e,F,H]` for `.inOut`.
  public let down: TensorView
  /// `[e,H]`, nil for experts without.
  public let downBias: TensorView?

  /// Gathers the weights.
  public init(
    gateUp: TensorView, gateUpBias: TensorView?, down: TensorView, downBias: TensorView?
  ) {
    self.gateUp = gateUp
    self.gateUpBias = gateUpBias
    self.down = down
    self.downBias = downBias
  }
}

/// Where the gradients of a rank's experts go; nil where none is wanted.
public struct ExpertsGradients {
  /// As `ExpertsWeights.gateUp`.
  public let gateUp: TensorView?
  /// As `ExpertsWeights.gateUpBias`.
  public let gateUpBias: TensorView?
  /// As `ExpertsWeights.down`.
  public let down: TensorView?
  /// As `ExpertsWeights.downBias`.
  public let downBias: TensorView?
  /// Whether gradients are added to what is there, in f32.
  public let accumulate: Bool

  /// Gathers the targets, of the weights' type or f32.
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
