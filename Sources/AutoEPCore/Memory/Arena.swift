import AutoEPSystem

/// Allocates consecutive parts of the caller's memory.
public struct Arena {
  /// Every part starts at a multiple of this many bytes from the base.
  public static let alignment = 64

  /// The start of the memory.
  public let base: Storage
  /// The bytes of the memory.
  public let byteCount: Int
  /// The bytes allocated so far.
  public private(set) var used = 0

  /// Makes an arena over `byteCount` bytes that the caller keeps alive; the base is null only for 0 bytes.
  public init(base: Storage, byteCount: Int) {
    self.base = base
    self.byteCount = byteCount
  }

  /// Makes an arena over the memory of a tensor; empty for nil.
  public init(_ tensor: TensorView?) {
    self.init(base: tensor?.storage ?? .nowhere, byteCount: tensor?.byteCount ?? 0)
  }

  /// The bytes that a tensor occupies, alignment included.
  public static func footprint(_ shape: [Int], _ dtype: DataType) -> Int {
    footprint(shape.reduce(dtype.byteCount, *))
  }

  /// The bytes that a part of `byteCount` bytes occupies, alignment included.
  public static func footprint(_ byteCount: Int) -> Int {
    (byteCount + alignment - 1) / alignment * alignment
  }

  /// Allocates the next part as a tensor.
  public mutating func take(_ shape: [Int], _ dtype: DataType) throws(EngineError) -> TensorView {
    let part = try take(byteCount: shape.reduce(dtype.byteCount, *))
    return TensorView(part.base, shape: shape, dtype: dtype)
  }

  /// Allocates the next part as an arena of its own.
  public mutating func take(byteCount size: Int) throws(EngineError) -> Arena {
    guard size <= byteCount - used else {
      throw EngineError(
        .internal, "arena of \(byteCount) bytes is too small; expected \(used + size) bytes")
    }
    defer { used = min(used + Self.footprint(size), byteCount) }
    return Arena(base: base.advanced(by: used), byteCount: size)
  }

  /// Raises the allocated bytes to at least `byteCount`.
  mutating func keep(_ byteCount: Int) { used = max(used, byteCount) }

  /// Runs `body`, then frees the parts that it allocated.
  public mutating func scope<Result>(
    _ body: (inout Arena) throws(EngineError) -> Result
  ) throws(EngineError) -> Result {
    let mark = used
    defer { used = mark }
    return try body(&self)
  }
}
