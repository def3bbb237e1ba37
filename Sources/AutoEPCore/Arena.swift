/// Hands out parts of the caller's workspace one after the other.
@safe
public struct Arena {
  /// Every part starts at a multiple of this.
  public static let alignment = 64

  private let base: UnsafeMutableRawPointer?
  private let byteCount: Int
  private var used = 0

  /// An arena over `byteCount` bytes that the caller keeps alive; nil only for none.
  public init(base: UnsafeMutableRawPointer?, byteCount: Int) {
    unsafe self.base = unsafe base
    self.byteCount = byteCount
  }

  /// The bytes that a part takes up.
  public static func footprint(_ shape: [Int], _ dtype: DataType) -> Int {
    let byteCount = shape.reduce(1, *) * dtype.byteCount
    return (byteCount + alignment - 1) / alignment * alignment
  }

  /// The next part, as a tensor.
  public mutating func take(_ shape: [Int], _ dtype: DataType) throws(EngineError) -> TensorView {
    let end = used + Self.footprint(shape, dtype)
    guard end <= byteCount else {
      throw EngineError(.internal, "the workspace of \(byteCount) bytes ends before byte \(end)")
    }
    defer { used = end }
    return unsafe TensorView(data: base.map { unsafe $0 + used }, shape: shape, dtype: dtype)
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
