import AutoEPCore

/// An element of rows and weights.
protocol RowScalar: Scalar {
  /// Sixteen consecutive elements, for sums that a vector unit makes.
  static func wide16(at first: UnsafeRawPointer) -> SIMD16<Wide>

  /// The matrix kernel of this type.
  static func kernel(of set: KernelSet) -> MatrixKernel<Wide>
}

extension Float: RowScalar {
  static func wide16(at first: UnsafeRawPointer) -> SIMD16<Float> {
    unsafe first.loadUnaligned(as: SIMD16<Float>.self)
  }

  static func kernel(of set: KernelSet) -> MatrixKernel<Float> { set.f32 }
}

extension Double: RowScalar {
  static func wide16(at first: UnsafeRawPointer) -> SIMD16<Double> {
    unsafe first.loadUnaligned(as: SIMD16<Double>.self)
  }

  static func kernel(of set: KernelSet) -> MatrixKernel<Double> { set.f64 }
}

extension BFloat16: RowScalar {
  static func wide16(at first: UnsafeRawPointer) -> SIMD16<Float> {
    let bits = unsafe first.loadUnaligned(as: SIMD16<UInt16>.self)
    return unsafe unsafeBitCast(
      SIMD16<UInt32>(truncatingIfNeeded: bits) &<< 16, to: SIMD16<Float>.self)
  }

  static func kernel(of set: KernelSet) -> MatrixKernel<Float> { set.bf16 }
}
