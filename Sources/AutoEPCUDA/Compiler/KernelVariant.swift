import AutoEPCore
import AutoEPSystem
import CKernels

/// The defines that `KernelSource.axes` and launches choose from.
enum KernelVariant {
  static let elements: [DataType] = [.f32, .bf16, .f16]

  /// The code of an element type; nil is `TYPE_NONE`.
  static func code(_ dtype: DataType?) -> Int {
    switch dtype {
    case .f32: Int(TYPE_F32)
    case .bf16: Int(TYPE_BF16)
    case .f16: Int(TYPE_F16)
    case .f64, .i32, .i64, nil: Int(TYPE_NONE)
    }
  }

  static func define(_ name: String, _ value: Int) -> KernelSource.Choice {
    [KernelSource.Define(name: name, value: value)]
  }

  /// An axis of one number.
  static func each(_ name: String, _ values: [Int]) -> [KernelSource.Choice] {
    values.map { define(name, $0) }
  }

  /// The type of elements that are read one by one.
  static let element = elements.map { define("ELEMENT", code($0)) }

  /// Rows of an element type, read by 16 bytes or by one element.
  static let rows = elements.flatMap { dtype in [1, 16 / dtype.byteCount].map { rows(dtype, $0) } }

  static func rows(_ dtype: DataType, _ vector: Int) -> KernelSource.Choice {
    define("ELEMENT", code(dtype)) + define("VECTOR", vector)
  }

  /// The types of topk_weights; with none, each weight counts as 1.
  static let weights = elements.map { weight($0) }
  static let weightsOrNone = [weight(nil)] + weights

  static func weight(_ dtype: DataType?) -> KernelSource.Choice { define("WEIGHT", code(dtype)) }

  /// The type of a gradient, and whether it is added to.
  static let sums =
    [sum(.f32, accumulate: true)] + elements.map { sum($0, accumulate: false) }

  static func sum(_ dtype: DataType, accumulate: Bool) -> KernelSource.Choice {
    define("OUT", code(dtype)) + define("ACCUMULATE", accumulate ? 1 : 0)
  }

  /// Throws unless kernels know a tensor's type.
  static func check(_ dtype: DataType, for operation: String) throws(EngineError) {
    guard elements.contains(dtype) else {
      throw EngineError(
        .unsupported,
        "\(operation) on a CUDA device takes float32, bfloat16 or float16, not \(dtype.name)")
    }
  }

  /// Elements an access: as many as 16 bytes hold, where all rows consist of such vectors.
  static func vector(_ dtype: DataType, widths: [Int], _ tensors: [TensorView?]) -> Int {
    let wide = 16 / dtype.byteCount
    let isWhole = widths.allSatisfy { $0 % wide == 0 }
    return isWhole && tensors.allSatisfy { ($0?.address.bits ?? 0) % 16 == 0 } ? wide : 1
  }
}

/// A size that kernels take in 32 bits.
func kernelInt(_ value: Int, _ what: String) throws(EngineError) -> Int32 {
  guard let number = Int32(exactly: value) else {
    throw EngineError(
      .unsupported, "\(what) is \(value); a CUDA device takes at most \(Int32.max)")
  }
  return number
}
