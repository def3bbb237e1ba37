import AutoEPCore
import CCUDA

/// How the tensor memory accelerator of sm_90 sees a tensor; a kernel takes it by value as
/// `const __grid_constant__`.
struct TensorMap: Sendable, KernelArgument {
  /// How the elements of a box's rows lie in shared memory; raw values are the driver's.
  enum Swizzle: Int32, Sendable {
    case none = 0
    case bytes32 = 1
    case bytes64 = 2
    case bytes128 = 3
  }

  let bits: cuda_tensor_map

  /// Describes a dense tensor, and the box of it that one copy moves.
  ///
  /// - Parameters:
  ///   - sizes: the elements a dimension, the innermost first.
  ///   - box: the elements of a copy, likewise; each at most 256.
  init(
    _ driver: CUDADriver, at address: DeviceAddress, dtype: DataType, sizes: [Int], box: [Int],
    swizzle: Swizzle
  ) throws(EngineError) {
    let code: Int32
    switch dtype {
    case .f16: code = cuda_tensor_map_float16
    case .f32: code = cuda_tensor_map_float32
    case .bf16: code = cuda_tensor_map_bfloat16
    case .f64, .i32, .i64:
      throw EngineError(.internal, "no tensor map is made of \(dtype.name)")
    }
    // Bytes from one index to the next, of all dimensions but the innermost.
    var strides: [UInt64] = []
    var byteCount = UInt64(dtype.byteCount)
    for size in sizes.dropLast() {
      byteCount *= UInt64(size)
      strides.append(byteCount)
    }
    let elementStrides = [UInt32](repeating: 1, count: sizes.count)
    let address = unsafe UnsafeMutableRawPointer(bitPattern: UInt(address.bits))
    // The driver writes the map at a multiple of 64 bytes.
    let (result, map) = unsafe withUnsafeTemporaryAllocation(byteCount: 128, alignment: 64) {
      let map = unsafe $0.bindMemory(to: cuda_tensor_map.self)
      unsafe map.initialize(repeating: cuda_tensor_map())
      let result = unsafe driver.functions.tensorMapEncodeTiled(
        map.baseAddress, code, UInt32(sizes.count), address, sizes.map { UInt64($0) }, strides,
        box.map { UInt32($0) }, elementStrides, 0, swizzle.rawValue,
        cuda_tensor_map_l2_promotion_256, 0)
      return unsafe (result, map[0])
    }
    try driver.check("cuTensorMapEncodeTiled", result)
    bits = map
  }
}
