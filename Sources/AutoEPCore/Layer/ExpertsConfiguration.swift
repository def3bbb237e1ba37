/// The configuration of a layer's experts.
public struct ExpertsConfiguration: Sendable, Equatable {
  /// The activation; raw values are the C interface's.
  public enum Activation: Int32, Sendable {
    case silu = 1
    case gelu = 2
    case geluTanh = 3
    case reluSquared = 4
    case clampedSwiGLU = 5
    case clampedSiLU = 6

    /// Whether it clamps gate and up, and so needs both.
    public var isClamped: Bool { self == .clampedSwiGLU || self == .clampedSiLU }
  }

  /// The order of gate and up in the pre-activation; raw values are the C interface's.
  public enum Gate: Int32, Sendable {
    case none = 1
    case concatenated = 2
    case interleaved = 3
  }

  /// Where the topk_weights are applied; raw values are the C interface's.
  public enum ApplyWeights: Int32, Sendable {
    case after = 1
    case before = 2
  }

  /// E, the experts of all ranks.
  public var numExperts: Int
  /// K, the experts per token.
  public var topK: Int
  /// H, the hidden size.
  public var hiddenSize: Int
  /// F, the expert's FFN size.
  public var ffnSize: Int
  /// The dtype of x, the weights and the result.
  public var dtype: DataType
  /// The activation.
  public var activation: Activation
  /// The order of gate and up.
  public var gate: Gate
  /// The orientation of both weights.
  public var weightLayout: WeightLayout
  /// Where the topk_weights are applied.
  public var applyWeights: ApplyWeights
  /// Alpha of the clamped SwiGLU.
  public var swigluAlpha: Double
  /// Limit of the clamped activations.
  public var swigluLimit: Double

  /// Makes a SwiGLU layer in the layout that most families use; the other properties can be changed.
  public init(numExperts: Int, topK: Int, hiddenSize: Int, ffnSize: Int, dtype: DataType) {
    self.numExperts = numExperts
    self.topK = topK
    self.hiddenSize = hiddenSize
    self.ffnSize = ffnSize
    self.dtype = dtype
    activation = .silu
    gate = .concatenated
    weightLayout = .outIn
    applyWeights = .after
    swigluAlpha = 1
    swigluLimit = .infinity
  }

  /// The factor inside the sigmoid of a clamped activation.
  public var gateAlpha: Double { activation == .clampedSiLU ? 1 : swigluAlpha }

  /// G: the width of the pre-activation.
  public var gateUpSize: Int { gate == .none ? ffnSize : 2 * ffnSize }
}

/// How a weight of an expert is stored; raw values are the C interface's.
public enum WeightLayout: Int32, Sendable {
  /// `[E, out, in]`
  case outIn = 1
  /// `[E, in, out]`
  case inOut = 2

  /// The other layout, in which the product is the gradient of the inputs.
  public var transposed: WeightLayout { self == .outIn ? .inOut : .outIn }
}
