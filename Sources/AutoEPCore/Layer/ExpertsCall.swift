/// The configuration, weights and groups of one pass over a rank's experts.
public struct ExpertsCall {
  /// What the experts compute.
  public let configuration: ExpertsConfiguration
  /// The experts' weights.
  public let weights: ExpertsWeights
  /// The rows of each expert.
  public let groups: RowGroups

  /// Combines the three.
  public init(
    _ configuration: ExpertsConfiguration, _ weights: ExpertsWeights, groups: RowGroups
  ) {
    self.configuration = configuration
    self.weights = weights
    self.groups = groups
  }
}

/// The tensors of the experts' backward. R is the number of rows that tensors have room for.
public struct ExpertsGradient {
  /// The gradient of the experts' outputs, not yet multiplied by the rows' weights, `[R,H]`.
  public let gradRows: ExpertRows
  /// The weights that multiply the outputs, `[R,1]` in the sum type; nil for ones.
  public let rowWeights: ExpertRows?
  /// The pre-activation, `[R,G]`.
  public let hidden: TensorView
  /// `[R,G]` out: the gradient of `hidden`; may alias it.
  public let gradHidden: TensorView
  /// `[R,F]`, scratch.
  public let activated: TensorView
  /// The parts of ⟨d, A⟩ of each row, `[R,n]` out in the sum type; nil if not wanted. A is the activation and d its
  /// gradient before the row's weight multiplies.
  public let dots: ExpertRows?
  /// `[R,H]` out: the gradient of the inputs; before that, scratch for rows that must be copied.
  public let gradInputs: ExpertRows
  /// Whether the gradient of the inputs is wanted.
  public let wantsGradInputs: Bool
  /// The targets of the weights' gradients; this call does not write gate/up's.
  public let gradients: ExpertsGradients

  /// Combines the tensors.
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
