/// What one pass over the experts of a rank computes with.
public struct ExpertsCall {
  /// What the experts compute.
  public let configuration: ExpertsConfiguration
  /// Their weights.
  public let weights: ExpertsWeights
  /// Which rows are whose.
  public let groups: RowGroups

  /// Gathers it.
  public init(
    _ configuration: ExpertsConfiguration, _ weights: ExpertsWeights, groups: RowGroups
  ) {
    self.configuration = configuration
    self.weights = weights
    self.groups = groups
  }
}

/// The tensors of the experts' backward. R counts rows that tensors have room for.
public struct ExpertsGradient {
  /// The gradient of the experts' outputs, not yet multiplied by the rows' weights, `[R,H]`.
  public let gradRows: ExpertRows
  /// The weights that multiply the outputs, `[R,1]` in the type of sums; nil for ones.
  public let rowWeights: ExpertRows?
  /// The pre-activation, `[R,G]`.
  public let hidden: TensorView
  /// `[R,G]` out: the gradient of `hidden`, whose memory it may be.
  public let gradHidden: TensorView
  /// `[R,F]`, scratch.
  public let activated: TensorView
  /// The parts of ⟨d, A⟩ of each row, `[R,n]` out in the type of sums; nil: not wanted. d is the gradient of the
  /// activation A before weighting.
  public let dots: ExpertRows?
  /// `[R,H]` out: the gradient of the inputs, and until then room for rows that have to be copied.
  public let gradInputs: ExpertRows
  /// Whether the gradient of the inputs is wanted at all.
  public let wantsGradInputs: Bool
  /// Where the gradients of the weights go; that of gate/up is not this call's.
  public let gradients: ExpertsGradients

  /// Gathers the tensors.
  public init(
    gradRows: ExpertRows, rowWeights: ExpertRows?, hidden: TensorView, gradHidden: TensorView,
    activated: TensorView, dots: ExpertRows?, gradInputs: ExpertRows, wantsGradInputs: Bool = true,
    gradients: ExpertsGradients
  ) {
    self.gradRows = gradRows
    self.rowWeights = rowWeights
    self.hidden = hidden
    self.gradHidden = gradHidden
    self.activated = activated
    self.dots = dots
    self.gradInputs = gradInputs
    self.wantsGradInputs = wantsGradInputs
    self.gradients = gradients
  }
}
