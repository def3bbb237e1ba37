/// A borrowed, dense, row-major view of a backend's memory. Its creator keeps the memory alive and has checked that
/// `storage` spans `elementCount` elements. Threads that share a view write disjoint elements.
public struct TensorView: Sendable {
  /// The address of the first element; null only if there is none.
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

  /// The address of the first element of a tensor in host memory; nil if there is none.
  ///
  /// Never called for a device's tensor: host code is only given host tensors.
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
    // Not null: a tensor with elements has memory.
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
