/// The groups (experts) of rows; the rows of each group are consecutive, group by group.
public struct RowGroups {
  /// How the device finds the bounds of the groups.
  public enum Bounds {
    /// The number of rows of each group, `[E]` i32 or i64.
    case counts(TensorView)
    /// The first row of each group, then the number of rows in use: `[E+1]` i32.
    case offsets(TensorView)
  }

  /// The bounds of the groups.
  public let bounds: Bounds
  /// The results of `ComputeBackend.prepare`, for the products of a pass; nil if it has not run.
  public let prepared: Arena?

  /// Describes groups in the backend's memory.
  public init(_ bounds: Bounds, prepared: Arena? = nil) {
    self.bounds = bounds
    self.prepared = prepared
  }

  /// Groups with the given numbers of rows, `[E]` i32 or i64.
  public static func counts(_ rows: TensorView) -> RowGroups { RowGroups(.counts(rows)) }

  /// E, the number of groups.
  public var count: Int {
    switch bounds {
    case .counts(let counts): counts.elementCount
    case .offsets(let offsets): offsets.elementCount - 1
    }
  }

  /// The tensor of `bounds`.
  public var tensor: TensorView {
    switch bounds {
    case .counts(let tensor), .offsets(let tensor): tensor
    }
  }

  /// The last offset, which is the number of rows in use; nil if only the device knows it.
  var rowCount: Int? {
    guard case .offsets(let offsets) = bounds, case .host = offsets.storage else { return nil }
    return unsafe Int(offsets.load(Int32.self, at: count))
  }
}
