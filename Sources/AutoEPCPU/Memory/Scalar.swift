import AutoEPCore
import CMicroKernels

/// An element of a float tensor; the stored type can differ from the type of computations.
protocol Scalar: Sendable {
  /// The type in which these elements are summed.
  associatedtype Wide: Real

  /// The dtype of tensors with this element.
  static var dataType: DataType { get }

  /// Rounds once, to nearest even.
  init(rounding wide: Wide)

  /// The exact value.
  var wide: Wide { get }

  /// Widens a row into one of the same length.
  static func widen(_ row: Elements<Self>, into wide: Elements<Wide>)

  /// Rounds a row into one of the same length.
  static func round(_ wide: Elements<Wide>, into row: Elements<Self>)
}

extension Scalar {
  /// The bytes of some columns of a row.
  static func bytes(_ columns: Range<Int>) -> Range<Int> {
    let size = MemoryLayout<Self>.stride
    return columns.lowerBound * size..<columns.upperBound * size
  }

  static func widen(_ row: Elements<Self>, into wide: Elements<Wide>) {
    for index in 0..<row.count { wide[index] = row[index].wide }
  }

  static func round(_ wide: Elements<Wide>, into row: Elements<Self>) {
    for index in 0..<row.count { row[index] = Self(rounding: wide[index]) }
  }
}

extension Float: Scalar {
  static var dataType: DataType { .f32 }
  init(rounding wide: Float) { self = wide }
  var wide: Float { self }
  static func widen(_ row: Elements<Float>, into wide: Elements<Float>) { wide.copy(row) }
  static func round(_ wide: Elements<Float>, into row: Elements<Float>) { row.copy(wide) }
}

extension Double: Scalar {
  static var dataType: DataType { .f64 }
  init(rounding wide: Double) { self = wide }
  var wide: Double { self }
  static func widen(_ row: Elements<Double>, into wide: Elements<Double>) { wide.copy(row) }
  static func round(_ wide: Elements<Double>, into row: Elements<Double>) { row.copy(wide) }
}

extension BFloat16: Scalar {
  static var dataType: DataType { .bf16 }
  init(rounding wide: Float) { self.init(wide) }
  var wide: Float { float }

  static func widen(_ row: Elements<BFloat16>, into wide: Elements<Float>) {
    unsafe widen_bf16(row.bits, wide.pointer, row.count)
  }

  static func round(_ wide: Elements<Float>, into row: Elements<BFloat16>) {
    unsafe round_bf16(wide.pointer, row.bits, row.count)
  }
}

extension Float16: Scalar {
  static var dataType: DataType { .f16 }
  init(rounding wide: Float) { self.init(wide) }
  var wide: Float { Float(self) }
}

extension Elements<BFloat16> {
  /// The address for C.
  var bits: UnsafeMutablePointer<UInt16>? {
    unsafe UnsafeMutableRawPointer(pointer)?.assumingMemoryBound(to: UInt16.self)
  }
}
