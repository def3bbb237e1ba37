import AutoEPSystem

/// Hands out parts of the caller's workspace one after the other.
@safe
public struct Arena {
  /// Every part starts at a multiple of this from the base.
  public static let alignment = 64

  private let base: UnsafeMutableRawPointer?
  private let byteCount: Int
  private var used = 0

  /// An arena over `byteCount` bytes that the caller keeps alive; nil only for none.
  public init(base: UnsafeMutableRawPointer?, byteCount: Int) {
    unsafe self.base = unsafe base
    self.byteCount = byteCount
  }

  /// An arena over the memory of a tensor; nil for none.
  public init(_ tensor: TensorView?) {
    unsafe self.init(base: tensor?.data, byteCount: tensor?.byteCount ?? 0)
  }

  /// The bytes that a part takes up.
  public static func footprint(_ shape: [Int], _ dtype: DataType) -> Int {
    let byteCount = shape.reduce(1, *) * dtype.byteCount
    return (byteCount + alignment - 1) / alignment * alignment
  }

  /// The next part, as a tensor.
  public mutating func take(_ shape: [Int], _ dtype: DataType) throws(EngineError) -> TensorView {
    let part = try tensor(shape, dtype, at: used)
    used += Self.footprint(shape, dtype)
    return part
  }

  /// The tensor at an offset in bytes, whether that part is taken or not.
  public func tensor(
    _ shape: [Int], _ dtype: DataType, at offset: Int
  ) throws(EngineError) -> TensorView {
    let end = shape.reduce(dtype.byteCount, *) + offset
    guard end <= byteCount else {
      throw EngineError(.internal, "the workspace of \(byteCount) bytes ends before byte \(end)")
    }
    return unsafe TensorView(data: base.map { unsafe $0 + offset }, shape: shape, dtype: dtype)
  }

  /// Runs `body` on parts that are free again afterwards.
  public mutating func scope<Result>(
    _ body: (inout Arena) throws(EngineError) -> Result
  ) throws(EngineError) -> Result {
    let mark = used
    defer { used = mark }
    return try body(&self)
  }
}
