import AutoEPCore
import CMicroKernels

/// An element that matrix products are made of.
protocol Packable: Scalar {
  /// Widens a block into panels; packing.h says how.
  static func pack(
    _ block: Matrix<Self>, panelRows: Int, into packed: UnsafeMutablePointer<Wide>?)
}

extension Float: Packable {
  static func pack(
    _ block: Matrix<Float>, panelRows: Int, into packed: UnsafeMutablePointer<Float>?
  ) {
    unsafe pack_f32(
      block.pointer, block.rowStride, block.columnStride, block.rows, block.columns, panelRows,
      packed)
  }
}

extension Double: Packable {
  static func pack(
    _ block: Matrix<Double>, panelRows: Int, into packed: UnsafeMutablePointer<Double>?
  ) {
    unsafe pack_f64(
      block.pointer, block.rowStride, block.columnStride, block.rows, block.columns, panelRows,
      packed)
  }
}

extension BFloat16: Packable {
  static func pack(
    _ block: Matrix<BFloat16>, panelRows: Int, into packed: UnsafeMutablePointer<Float>?
  ) {
    let bits = unsafe UnsafeRawPointer(block.pointer)?.assumingMemoryBound(to: UInt16.self)
    unsafe pack_bf16(
      bits, block.rowStride, block.columnStride, block.rows, block.columns, panelRows, packed)
  }
}

extension Matrix where S: Packable {
  /// Widens the block into panels of `panelRows` rows each, the last one filled up with zeros. In a
  /// panel the rows of one column follow each other.
  func pack(panelRows: Int, into packed: Elements<S.Wide>) {
    assert(packed.count >= (rows + panelRows - 1) / panelRows * panelRows * columns)
    unsafe S.pack(self, panelRows: panelRows, into: packed.pointer)
  }
}
