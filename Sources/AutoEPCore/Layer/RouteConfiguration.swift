/// How a router turns logits into a choice of experts and their weights.
public struct RouteConfiguration: Sendable {
  /// The score that the choice and the weights come from; raw values are the C interface's.
  public enum Score: Int32, Sendable {
    case softmax = 1
    case topkSoftmax = 2
    case sigmoid = 3
    case sinkhorn = 4
  }

  /// How a group of experts is scored; raw values are the C interface's.
  public enum GroupScore: Int32, Sendable {
    case none = 0
    case max = 1
    case top2Sum = 2
  }

  /// The score.
  public var score: Score
  /// K.
  public var topK: Int
  /// The epsilon of weights / (sum + epsilon), or nil for no renormalisation.
  public var normalizeEpsilon: Double?
  /// Multiplies the weights last.
  public var scale: Double
  /// The groups' score, `.none` for no groups.
  public var groupScore: GroupScore
  /// Groups the experts are split into.
  public var numGroups: Int
  /// Groups a token may use.
  public var topkGroups: Int
  /// Sinkhorn passes that balance the choice; 0 chooses from the logits.
  public var sinkhornIterations: Int

  /// Describes a router without groups; set what differs.
  public init(score: Score, topK: Int) {
    self.score = score
    self.topK = topK
    normalizeEpsilon = nil
    scale = 1
    groupScore = .none
    numGroups = 1
    topkGroups = 1
    sinkhornIterations = 0
  }
}
