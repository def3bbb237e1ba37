/// The size of a buffer as a linear function of how many items it is for, so that a host can compute it without a
/// call, also where the number of items is symbolic.
public struct ByteCount: Sendable, Equatable {
  /// Bytes for no item.
  public var fixed: Int
  /// Bytes per item.
  public var perItem: Int

  /// A size of so many bytes and bytes per item.
  public init(fixed: Int = 0, perItem: Int = 0) {
    self.fixed = fixed
    self.perItem = perItem
  }

  /// What parts of an arena take up that have `perItem` bytes per item: alignment takes up to one unit.
  public static func part(perItem: Int) -> ByteCount {
    ByteCount(fixed: Arena.alignment, perItem: perItem)
  }

  /// What a part of an arena of one size takes up.
  public static func part(byteCount: Int) -> ByteCount {
    ByteCount(fixed: Arena.footprint(byteCount))
  }

  /// The bytes for a number of items.
  public func of(_ items: Int) -> Int { fixed + items * perItem }

  /// The size of both.
  public static func + (left: ByteCount, right: ByteCount) -> ByteCount {
    ByteCount(fixed: left.fixed + right.fixed, perItem: left.perItem + right.perItem)
  }
}
