/// A borrowed, dense, row-major view of a backend's memory. Whoever makes one keeps the memory
/// alive, and has checked that `storage` spans `elementCount` elements. Threads that share one write different
/// elements.
public struct TensorView: Sendable {
  /// Where the first element is; null only when there is none.
  public let storage: Storage
  /// The dimensions, outermost first.
  public let shape: [Int]
  /// The element type.
  public let dtype: DataType

  /// Makes a view of memory that the caller keeps alive.
  public init(_ storage: Storage, shape: [Int], dtype: DataType) {
    self.storage = storage
    self.shape = shape
    self.dtype = dtype
  }

  /// Makes a view of host memory that the caller keeps alive.
  public init(data: UnsafeMutableRawPointer?, shape: [Int], dtype: DataType) {
    unsafe self.init(.host(data), shape: shape, dtype: dtype)
  }

  /// The product of the dimensions.
  public var elementCount: Int { shape.reduce(1, *) }
  /// The size in bytes.
  public var byteCount: Int { elementCount * dtype.byteCount }
  /// Elements per index of the first dimension.
  public var rowElementCount: Int { shape.dropFirst().reduce(1, *) }

  /// The first element of a tensor in host memory; nil for one without elements.
  ///
  /// A device's tensor never comes here: what computes on the host is given the host's tensors.
  public var hostPointer: UnsafeMutableRawPointer? {
    guard case .host(let pointer) = storage else {
      assertionFailure("a device's memory cannot be read by the host")
      return nil
    }
    return unsafe pointer
  }

  /// Element `index` of a tensor in host memory as `type`; the caller has checked type and bounds.
  @unsafe
  public func load<Element: BitwiseCopyable>(_ type: Element.Type, at index: Int) -> Element {
    // A tensor with elements has memory.
    unsafe hostPointer.unsafelyUnwrapped.load(
      fromByteOffset: index * MemoryLayout<Element>.stride, as: type)
  }

  /// Sets element `index` of a tensor in host memory; the caller has checked type and bounds.
  @unsafe
  public func store<Element: BitwiseCopyable>(_ element: Element, at index: Int) {
    unsafe hostPointer.unsafelyUnwrapped.storeBytes(
      of: element, toByteOffset: index * MemoryLayout<Element>.stride, as: Element.self)
  }
}
