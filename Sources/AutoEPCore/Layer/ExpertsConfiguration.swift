/// What the experts of a layer compute.
public struct ExpertsConfiguration: Sendable, Equatable {
  /// The activation; raw values are the C interface's.
  public enum Activation: Int32, Sendable {
    case silu = 1
    case gelu = 2
    case geluTanh = 3
    case reluSquared = 4
    case clampedSwiGLU = 5
    case clampedSiLU = 6

    /// Whether it limits gate and up, and so needs both.
    public var isClamped: Bool { self == .clampedSwiGLU || self == .clampedSiLU }
  }

  /// Where gate and up stand in the pre-activation; raw values are the C interface's.
  public enum Gate: Int32, Sendable {
    case none = 1
    case concatenated = 2
    case interleaved = 3
  }

  /// Where the topk_weights multiply; raw values are the C interface's.
  public enum ApplyWeights: Int32, Sendable {
    case after = 1
    case before = 2
  }

  /// E, over all ranks.
  public var numExperts: Int
  /// K.
  public var topK: Int
  /// H.
  public var hiddenSize: Int
  /// F.
  public var ffnSize: Int
  /// Of x, the weights and the result.
  public var dtype: DataType
  /// The activation.
  public var activation: Activation
  /// The gate's place.
  public var gate: Gate
  /// The orientation of both weights.
  public var weightLayout: WeightLayout
  /// Where the topk_weights multiply.
  public var applyWeights: ApplyWeights
  /// Alpha of the clamped SwiGLU.
  public var swigluAlpha: Double
  /// Limit of the clamped activations.
  public var swigluLimit: Double

  /// Describes a SwiGLU layer in the layout most families use; set what differs.
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

  /// The factor in the sigmoid of a clamped activation.
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

  /// The other orientation: what the input gradient multiplies by.
  public var transposed: WeightLayout { self == .outIn ? .inOut : .outIn }
}
