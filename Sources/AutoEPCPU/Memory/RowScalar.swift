import AutoEPCore
import CMicroKernels

/// An element of rows and weights, with operations on rows of equal length.
protocol RowScalar: Scalar {
  /// The matrix kernel of this type.
  static func kernel(of set: KernelSet) -> MatrixKernel<Wide>

  /// target = factor · row.
  static func scale(_ row: Elements<Self>, by factor: Wide, into target: Elements<Self>)

  /// sums += factor · row.
  static func addScaled(_ row: Elements<Self>, by factor: Wide, to sums: Elements<Wide>)

  /// The inner product, summed in a fixed order.
  static func dot(_ a: Elements<Self>, _ b: Elements<Self>) -> Wide
}

extension Float: RowScalar {
  static func kernel(of set: KernelSet) -> MatrixKernel<Float> { set.f32 }

  static func scale(_ row: Elements<Float>, by factor: Float, into target: Elements<Float>) {
    unsafe scale_f32(factor, row.pointer, target.pointer, row.count)
  }

  static func addScaled(_ row: Elements<Float>, by factor: Float, to sums: Elements<Float>) {
    unsafe add_scaled_f32(factor, row.pointer, sums.pointer, row.count)
  }

  static func dot(_ a: Elements<Float>, _ b: Elements<Float>) -> Float {
    unsafe dot_f32(a.pointer, b.pointer, a.count)
  }
}

extension BFloat16: RowScalar {
  static func kernel(of set: KernelSet) -> MatrixKernel<Float> { set.bf16 }

  static func scale(
    _ row: Elements<BFloat16>, by factor: Float, into target: Elements<BFloat16>
  ) {
    unsafe scale_bf16(factor, row.bits, target.bits, row.count)
  }

  static func addScaled(_ row: Elements<BFloat16>, by factor: Float, to sums: Elements<Float>) {
    unsafe add_scaled_bf16(factor, row.bits, sums.pointer, row.count)
  }

  static func dot(_ a: Elements<BFloat16>, _ b: Elements<BFloat16>) -> Float {
    unsafe dot_bf16(a.bits, b.bits, a.count)
  }
}

extension Double: RowScalar {
  static func kernel(of set: KernelSet) -> MatrixKernel<Double> { set.f64 }

  static func scale(_ row: Elements<Double>, by factor: Double, into target: Elements<Double>) {
    for index in 0..<row.count { target[index] = factor * row[index] }
  }

  static func addScaled(_ row: Elements<Double>, by factor: Double, to sums: Elements<Double>) {
    for index in 0..<row.count { sums[index] += factor * row[index] }
  }

  static func dot(_ a: Elements<Double>, _ b: Elements<Double>) -> Double {
    (0..<a.count).reduce(0) { $0 + a[$1] * b[$1] }
  }
}
