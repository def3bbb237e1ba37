import AutoEPCore
import AutoEPSystem
import CCUDA

/// The tensor memory accelerator's description of a tensor; kernels take it by value as
/// `const __grid_constant__`.
struct TensorMap: Sendable, KernelArgument {
  /// How a box's rows are swizzled in shared memory; raw values are the driver's.
  enum Swizzle: Int32, Sendable {
    case none = 0
    case bytes32 = 1
    case bytes64 = 2
    case bytes128 = 3
  }

  /// The alignment that the driver and kernels require, in bytes.
  static let alignment = 64

  let bits: cuda_tensor_map

  /// Describes a dense tensor, and the box of it that one copy moves.
  ///
  /// - Parameters:
  ///   - sizes: The elements per dimension, innermost first.
  ///   - box: The elements per copy and dimension, innermost first; each at most 256.
  init<let rank: Int>(
    _ driver: CUDADriver, at address: DeviceAddress, dtype: DataType,
    sizes: InlineArray<rank, Int>, box: InlineArray<rank, Int>, swizzle: Swizzle
  ) throws(EngineError) {
    let code: Int32
    switch dtype {
    case .f16: code = cuda_tensor_map_float16
    case .f32: code = cuda_tensor_map_float32
    case .bf16: code = cuda_tensor_map_bfloat16
    case .f64, .i32, .i64:
      throw EngineError(.internal, "no tensor map is made of \(dtype.name)")
    }
    let counts = InlineArray<rank, UInt64> { UInt64(sizes[$0]) }
    // The strides in bytes of all dimensions except the innermost; the driver ignores the last one.
    var byteCount = UInt64(dtype.byteCount)
    let strides = InlineArray<rank, UInt64> {
      byteCount *= counts[$0]
      return byteCount
    }
    let extents = InlineArray<rank, UInt32> { UInt32(box[$0]) }
    let elementStrides = InlineArray<rank, UInt32>(repeating: 1)
    let (result, map) = unsafe withAlignedBytes(MemoryLayout<cuda_tensor_map>.size) { memory in
      let map = unsafe memory.initializeMemory(as: cuda_tensor_map.self, to: cuda_tensor_map())
      let result = unsafe counts.withPointer { counts in
        unsafe strides.withPointer { strides in
          unsafe extents.withPointer { extents in
            unsafe elementStrides.withPointer { elementStrides in
              unsafe driver.functions.tensorMapEncodeTiled(
                map, code, UInt32(rank), UnsafeMutableRawPointer(bitPattern: UInt(address.bits)),
                counts, strides, extents, elementStrides, 0, swizzle.rawValue,
                cuda_tensor_map_l2_promotion_256, 0)
            }
          }
        }
      }
      return (result, unsafe map.pointee)
    }
    try driver.check("cuTensorMapEncodeTiled", result)
    bits = map
  }
}

extension InlineArray where Element: BitwiseCopyable {
  fileprivate func withPointer<Result>(_ body: (UnsafePointer<Element>?) -> Result) -> Result {
    unsafe span.withUnsafeBufferPointer { unsafe body($0.baseAddress) }
  }
}

/// Lends memory aligned for tensor maps. Up to 1 KiB is on the stack, which itself aligns to at most 16 bytes.
func withAlignedBytes<Result>(
  _ byteCount: Int, _ body: (UnsafeMutableRawPointer) -> Result
) -> Result {
  let alignment = TensorMap.alignment
  return unsafe withUnsafeTemporaryAllocation(byteCount: byteCount + alignment, alignment: 16) {
    unsafe body($0.baseAddress.unsafelyUnwrapped.alignedUp(toMultipleOf: alignment))
  }
}
