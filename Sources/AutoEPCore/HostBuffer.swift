import AutoEPSystem

#if canImport(Glibc)
  import Glibc
#endif

/// Host memory of its own, freed with the object; running out of memory is an error, not an end.
@safe
public final class HostBuffer: @unchecked Sendable {
  /// The memory as a tensor.
  public let view: TensorView

  /// Allocates a tensor, uninitialised and aligned for any SIMD width.
  public init(shape: [Int], dtype: DataType) throws(EngineError) {
    let byteCount = max(shape.reduce(1, *) * dtype.byteCount, 1)
    var data: UnsafeMutableRawPointer?
    guard unsafe posix_memalign(&data, Arena.alignment, byteCount) == 0 else {
      throw EngineError(.outOfMemory, "could not allocate \(byteCount) bytes of host memory")
    }
    unsafe view = TensorView(data: data, shape: shape, dtype: dtype)
  }

  /// A tensor of i64 numbers.
  public convenience init(integers: [Int]) throws(EngineError) {
    try self.init(shape: [integers.count], dtype: .i64)
    for (index, number) in integers.enumerated() { unsafe view.store(Int64(number), at: index) }
  }

  deinit { unsafe free(view.data) }
}
