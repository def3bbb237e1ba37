/// The rows of each group (expert): they follow each other, group by group.
public struct RowGroups {
  /// How the device knows where they begin.
  public enum Bounds {
    /// Rows of each group, `[E]` i32 or i64.
    case counts(TensorView)
    /// First row of each group, then the number of rows in use: `[E+1]` i32.
    case offsets(TensorView)
  }

  /// Where they begin.
  public let bounds: Bounds
  /// What the backend has computed about them for the products of a pass; nil where it has not.
  public let prepared: Arena?

  /// Describes groups in the backend's memory.
  public init(_ bounds: Bounds, prepared: Arena? = nil) {
    self.bounds = bounds
    self.prepared = prepared
  }

  /// Groups of which each has so many rows, `[E]` i32 or i64.
  public static func counts(_ rows: TensorView) -> RowGroups { RowGroups(.counts(rows)) }

  /// E.
  public var count: Int {
    switch bounds {
    case .counts(let counts): counts.elementCount
    case .offsets(let offsets): offsets.elementCount - 1
    }
  }

  /// What `bounds` is in.
  public var tensor: TensorView {
    switch bounds {
    case .counts(let tensor), .offsets(let tensor): tensor
    }
  }

  /// How many rows lie before the last offset; nil where only the device knows it.
  var rowCount: Int? {
    guard case .offsets(let offsets) = bounds, case .host = offsets.storage else { return nil }
    return unsafe Int(offsets.load(Int32.self, at: count))
  }
}
