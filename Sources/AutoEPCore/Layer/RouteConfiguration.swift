/// How a router chooses experts and weights from logits.
public struct RouteConfiguration: Sendable {
  /// The score that experts are chosen and weighted by; raw values are the C interface's.
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

  /// The score of an expert.
  public var score: Score
  /// K, the experts per token.
  public var topK: Int
  /// The epsilon in weight / (sum + epsilon); nil: weights are not normalized.
  public var normalizeEpsilon: Double?
  /// The factor that multiplies the weights last.
  public var scale: Double
  /// The score of a group; `.none` without groups.
  public var groupScore: GroupScore
  /// The number of groups that the experts are split into.
  public var numGroups: Int
  /// The groups that a token may use.
  public var topkGroups: Int
  /// The number of Sinkhorn iterations; 0 chooses from the logits.
  public var sinkhornIterations: Int

  /// Makes a router without groups; the other properties can be changed.
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
