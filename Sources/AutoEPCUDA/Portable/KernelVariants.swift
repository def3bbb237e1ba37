import AutoEPCore

// What the portable kernels are compiled with; see the head of each .cu file.

extension DataType {
  /// The number that kernels know an element type by.
  var kernelCode: Int {
    switch self {
    case .f32: 1
    case .bf16: 2
    case .f16: 3
    case .f64, .i32, .i64: 0
    }
  }

  /// The types that kernels compute with.
  static let computed: [DataType] = [.f32, .bf16, .f16]
}

/// The element type of rows, and the elements of an access.
struct RowAccess {
  let dtype: DataType
  let vector: Int

  /// 16 bytes an access where all rows of these tensors are whole vectors, else one element.
  init(_ tensors: TensorView?...) {
    let tensors = tensors.compactMap { $0 }
    dtype = tensors[0].dtype
    let isWide = tensors.allSatisfy {
      ($0.shape.last ?? 0) * $0.dtype.byteCount % 16 == 0 && $0.address.bits % 16 == 0
    }
    vector = isWide ? 16 / dtype.byteCount : 1
  }

  private init(dtype: DataType, vector: Int) { (self.dtype, self.vector) = (dtype, vector) }

  static let all = DataType.computed.flatMap { dtype in
    [1, 16 / dtype.byteCount].map { RowAccess(dtype: dtype, vector: $0) }
  }

  var defines: [String] { ["ELEMENT=\(dtype.kernelCode)", "VECTOR=\(vector)"] }

  /// Vectors of a row.
  func count(_ tensor: TensorView) -> Int { (tensor.shape.last ?? 0) / vector }
}

/// The type of topk_weights, or that there are none.
func weightDefines(_ weights: TensorView?) -> [String] { weightDefines(weights?.dtype) }

func weightDefines(_ dtype: DataType?) -> [String] { ["WEIGHT=\(dtype?.kernelCode ?? 0)"] }

/// Where the rows of each expert are told, on the device.
enum DeviceGroups {
  /// `[E+1]` i32: the first row of each, and the end.
  case offsets(TensorView)
  /// `[E]` i32 or i64.
  case counts(TensorView)

  var tensor: TensorView {
    switch self {
    case .offsets(let tensor), .counts(let tensor): tensor
    }
  }

  /// E.
  var count: Int {
    switch self {
    case .offsets(let offsets): offsets.elementCount - 1
    case .counts(let counts): counts.elementCount
    }
  }

  var defines: [String] {
    switch self {
    case .offsets: ["GROUPS=0"]
    case .counts(let counts): ["GROUPS=\(counts.dtype.byteCount)"]
    }
  }

  static let allDefines = [0, 4, 8].map { ["GROUPS=\($0)"] }
}

/// How sums over the rows of an expert are written.
func sumDefines(_ out: TensorView, accumulate: Bool) -> [String] {
  ["OUT=\(out.dtype.kernelCode)", "ACCUMULATE=\(accumulate ? 1 : 0)"]
}

let allSumDefines = [[1, 0], [1, 1], [2, 0], [3, 0]].map {
  ["OUT=\($0[0])", "ACCUMULATE=\($0[1])"]
}
