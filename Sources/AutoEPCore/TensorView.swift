/// A borrowed, dense, row-major view of a backend's memory. Whoever makes one keeps the memory
/// alive, and has checked that `data` spans `elementCount` elements.
@safe
public struct TensorView {
  /// The first element; nil only when there is none.
  public let data: UnsafeMutableRawPointer?
  /// The dimensions, outermost first.
  public let shape: [Int]
  /// The element type.
  public let dtype: DataType

  /// Makes a view of memory that the caller keeps alive.
  public init(data: UnsafeMutableRawPointer?, shape: [Int], dtype: DataType) {
    unsafe self.data = unsafe data
    self.shape = shape
    self.dtype = dtype
  }

  /// The product of the dimensions.
  public var elementCount: Int { shape.reduce(1, *) }
  /// The size in bytes.
  public var byteCount: Int { elementCount * dtype.byteCount }
  /// Elements of one index of the first dimension.
  public var rowElementCount: Int { shape.dropFirst().reduce(1, *) }

  /// Element `index` as `type`; the caller has checked type and bounds.
  @unsafe
  public func load<Element: BitwiseCopyable>(_ type: Element.Type, at index: Int) -> Element {
    // A tensor with elements has memory.
    unsafe data.unsafelyUnwrapped.load(
      fromByteOffset: index * MemoryLayout<Element>.stride, as: type)
  }

  /// Sets element `index`; the caller has checked type and bounds.
  @unsafe
  public func store<Element: BitwiseCopyable>(_ element: Element, at index: Int) {
    unsafe data.unsafelyUnwrapped.storeBytes(
      of: element, toByteOffset: index * MemoryLayout<Element>.stride, as: Element.self)
  }
}
