import AutoEPSystem

/// Hands out parts of the caller's memory one after the other.
public struct Arena {
  /// Every part starts at a multiple of this from the base.
  public static let alignment = 64

  /// Where the memory begins.
  public let base: Storage
  /// The bytes of the memory.
  public let byteCount: Int
  /// The bytes that are taken.
  public private(set) var used = 0

  /// An arena over `byteCount` bytes that the caller keeps alive; null only for none.
  public init(base: Storage, byteCount: Int) {
    self.base = base
    self.byteCount = byteCount
  }

  /// An arena over the memory of a tensor; nil for none.
  public init(_ tensor: TensorView?) {
    self.init(base: tensor?.storage ?? .nowhere, byteCount: tensor?.byteCount ?? 0)
  }

  /// The bytes that a part takes up.
  public static func footprint(_ shape: [Int], _ dtype: DataType) -> Int {
    footprint(shape.reduce(dtype.byteCount, *))
  }

  /// The bytes that a part of so many bytes takes up.
  public static func footprint(_ byteCount: Int) -> Int {
    (byteCount + alignment - 1) / alignment * alignment
  }

  /// The next part, as a tensor.
  public mutating func take(_ shape: [Int], _ dtype: DataType) throws(EngineError) -> TensorView {
    let part = try take(byteCount: shape.reduce(dtype.byteCount, *))
    return TensorView(part.base, shape: shape, dtype: dtype)
  }

  /// The next part, as memory to hand out in turn.
  public mutating func take(byteCount size: Int) throws(EngineError) -> Arena {
    guard size <= byteCount - used else {
      throw EngineError(
        .internal, "the memory of \(byteCount) bytes ends before byte \(used + size)")
    }
    defer { used = min(used + Self.footprint(size), byteCount) }
    return Arena(base: base.advanced(by: used), byteCount: size)
  }

  /// Leaves at least so many bytes taken.
  mutating func keep(_ byteCount: Int) { used = max(used, byteCount) }

  /// Runs `body` on parts that are free again afterwards.
  public mutating func scope<Result>(
    _ body: (inout Arena) throws(EngineError) -> Result
  ) throws(EngineError) -> Result {
    let mark = used
    defer { used = mark }
    return try body(&self)
  }
}
