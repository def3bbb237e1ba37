import AutoEPCore

/// Where the rows of each group begin, as the device knows it.
enum DeviceGroups {
  /// Rows of each, `[E]` i32 or i64.
  case counts(TensorView)
  /// First row of each and the end, `[E+1]` i32.
  case offsets(TensorView)

  /// All that kernels are compiled for.
  static let axis = KernelVariant.each("GROUPS", [0, 4, 8])

  var choice: KernelSource.Choice {
    switch self {
    case .counts(let counts): KernelVariant.define("GROUPS", counts.dtype.byteCount)
    case .offsets: KernelVariant.define("GROUPS", 0)
    }
  }

  var tensor: TensorView {
    switch self {
    case .counts(let tensor), .offsets(let tensor): tensor
    }
  }

  /// E.
  var count: Int {
    switch self {
    case .counts(let counts): counts.elementCount
    case .offsets(let offsets): offsets.elementCount - 1
    }
  }

  /// The number of rows in use on the device; nil where all are.
  var rowsInUse: DeviceAddress? {
    switch self {
    case .counts: nil
    case .offsets(let offsets): offsets.address + 4 * count
    }
  }
}
