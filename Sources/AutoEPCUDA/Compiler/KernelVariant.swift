import AutoEPCore
import AutoEPSystem
import CKernels

/// The sets of defines that axes and launches use.
enum KernelVariant {
  static let elements: [DataType] = [.f32, .bf16, .f16]

  /// The code of an element type; `TYPE_NONE` for nil.
  static func code(_ dtype: DataType?) -> Int {
    switch dtype {
    case .f32: Int(TYPE_F32)
    case .bf16: Int(TYPE_BF16)
    case .f16: Int(TYPE_F16)
    case .f64, .i32, .i64, nil: Int(TYPE_NONE)
    }
  }

  static func define(_ name: String, _ value: Int) -> KernelSource.Defines {
    [KernelSource.Define(name: name, value: value)]
  }

  /// An axis with one macro and several values.
  static func each(_ name: String, _ values: [Int]) -> [KernelSource.Defines] {
    values.map { define(name, $0) }
  }

  /// The element types, for kernels that access single elements.
  static let element = elements.map { define("ELEMENT", code($0)) }

  /// The types of rows, accessed by 16 bytes or by single elements.
  static let rows = elements.flatMap { dtype in [1, 16 / dtype.byteCount].map { rows(dtype, $0) } }

  static func rows(_ dtype: DataType, _ vector: Int) -> KernelSource.Defines {
    define("ELEMENT", code(dtype)) + define("VECTOR", vector)
  }

  /// The types of topk_weights; with `TYPE_NONE` each weight counts as 1.
  static let weights = elements.map { weight($0) }
  static let weightsOrNone = [weight(nil)] + weights

  static func weight(_ dtype: DataType?) -> KernelSource.Defines { define("WEIGHT", code(dtype)) }

  /// The types of a gradient, overwritten or accumulated into.
  static let sums =
    [sum(.f32, accumulate: true)] + elements.map { sum($0, accumulate: false) }

  static func sum(_ dtype: DataType, accumulate: Bool) -> KernelSource.Defines {
    define("OUT", code(dtype)) + define("ACCUMULATE", accumulate ? 1 : 0)
  }

  /// Throws unless kernels support a dtype.
  static func check(_ dtype: DataType, for operation: String) throws(EngineError) {
    guard elements.contains(dtype) else {
      throw EngineError(
        .unsupported,
        "\(operation) has dtype \(dtype.name); expected float32, bfloat16 or float16 on a CUDA"
          + " device")
    }
  }

  /// The elements per access: 16 bytes if all rows consist of whole aligned vectors, else one element.
  static func vector(_ dtype: DataType, widths: [Int], _ tensors: [TensorView?]) -> Int {
    let wide = 16 / dtype.byteCount
    let isWhole = widths.allSatisfy { $0 % wide == 0 }
    return isWhole && tensors.allSatisfy { ($0?.address.bits ?? 0) % 16 == 0 } ? wide : 1
  }
}

/// Converts a size to the 32 bits that kernels take.
func kernelInt(_ value: Int, _ what: String) throws(EngineError) -> Int32 {
  guard let number = Int32(exactly: value) else {
    throw EngineError(
      .unsupported, "\(what) is \(value); expected at most \(Int32.max) on a CUDA device")
  }
  return number
}
