/// The size of a buffer as a linear function of its number of items. A host can evaluate it without a call, also for
/// a symbolic number of items.
public struct ByteCount: Sendable, Equatable {
  /// The bytes for 0 items.
  public var fixed: Int
  /// Bytes per item.
  public var perItem: Int

  /// Makes a size from its two coefficients.
  public init(fixed: Int = 0, perItem: Int = 0) {
    self.fixed = fixed
    self.perItem = perItem
  }

  /// The arena bytes of a part with `perItem` bytes per item; `fixed` covers the alignment.
  public static func part(perItem: Int) -> ByteCount {
    ByteCount(fixed: Arena.alignment, perItem: perItem)
  }

  /// The arena bytes of a part of constant size.
  public static func part(byteCount: Int) -> ByteCount {
    ByteCount(fixed: Arena.footprint(byteCount))
  }

  /// The bytes for `items` items.
  public func of(_ items: Int) -> Int { fixed + items * perItem }

  /// The sum of two sizes.
  public static func + (left: ByteCount, right: ByteCount) -> ByteCount {
    ByteCount(fixed: left.fixed + right.fixed, perItem: left.perItem + right.perItem)
  }
}
