/// The element types of tensors; raw values are the C interface's.
public enum DataType: Int32, Sendable {
  case f32 = 1
  case f64 = 2
  case bf16 = 3
  case f16 = 4
  case i32 = 5
  case i64 = 6

  /// Bytes of one element.
  public var byteCount: Int {
    switch self {
    case .bf16, .f16: 2
    case .f32, .i32: 4
    case .f64, .i64: 8
    }
  }

  /// The type that sums of this type are computed in.
  public var sumType: DataType { self == .f64 ? .f64 : .f32 }

  /// The name in error messages.
  public var name: String {
    switch self {
    case .f32: "float32"
    case .f64: "float64"
    case .bf16: "bfloat16"
    case .f16: "float16"
    case .i32: "int32"
    case .i64: "int64"
    }
  }
}
