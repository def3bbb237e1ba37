import AutoEPCore
import CMicroKernels

/// An element of rows and weights.
protocol RowScalar: Scalar {
  /// Sixteen consecutive elements, for sums that a vector unit makes.
  static func wide16(at first: UnsafeRawPointer) -> SIMD16<Wide>

  /// Widens a block into panels; packing.h says how.
  static func pack(
    _ block: Matrix<Self>, panelRows: Int, into packed: UnsafeMutablePointer<Wide>?)
}

extension Float: RowScalar {
  static func wide16(at first: UnsafeRawPointer) -> SIMD16<Float> {
    unsafe first.loadUnaligned(as: SIMD16<Float>.self)
  }

  static func pack(
    _ block: Matrix<Float>, panelRows: Int, into packed: UnsafeMutablePointer<Float>?
  ) {
    unsafe pack_f32(
      block.pointer, block.rowStride, block.columnStride, block.rows, block.columns, panelRows,
      packed)
  }
}

extension Double: RowScalar {
  static func wide16(at first: UnsafeRawPointer) -> SIMD16<Double> {
    unsafe first.loadUnaligned(as: SIMD16<Double>.self)
  }

  static func pack(
    _ block: Matrix<Double>, panelRows: Int, into packed: UnsafeMutablePointer<Double>?
  ) {
    unsafe pack_f64(
      block.pointer, block.rowStride, block.columnStride, block.rows, block.columns, panelRows,
      packed)
  }
}

extension BFloat16: RowScalar {
  static func wide16(at first: UnsafeRawPointer) -> SIMD16<Float> {
    let bits = unsafe first.loadUnaligned(as: SIMD16<UInt16>.self)
    return unsafe unsafeBitCast(
      SIMD16<UInt32>(truncatingIfNeeded: bits) &<< 16, to: SIMD16<Float>.self)
  }

  static func pack(
    _ block: Matrix<BFloat16>, panelRows: Int, into packed: UnsafeMutablePointer<Float>?
  ) {
    let bits = unsafe UnsafeRawPointer(block.pointer)?.assumingMemoryBound(to: UInt16.self)
    unsafe pack_bf16(
      bits, block.rowStride, block.columnStride, block.rows, block.columns, panelRows, packed)
  }
}
