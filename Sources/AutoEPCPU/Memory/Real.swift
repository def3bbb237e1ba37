import CMicroKernels
import Glibc

/// A type of the backend's computations: Float or Double.
protocol Real: BinaryFloatingPoint, SIMDScalar, Codable, Scalar where Wide == Self {
  static func exp(_ x: Self) -> Self
  static func log(_ x: Self) -> Self
  static func tanh(_ x: Self) -> Self
  static func erf(_ x: Self) -> Self

  /// Replaces each value by its exponential.
  static func exponentiate(_ values: Elements<Self>)

  /// Replaces each value by its sigmoid.
  static func applySigmoid(_ values: Elements<Self>)

  /// parts[i] = inner product of the i-th `DotParts.width` elements of two rows, summed in a fixed order.
  static func dotParts(_ a: Elements<Self>, _ b: Elements<Self>, into parts: Elements<Self>)
}

extension Float: Real {
  static func exp(_ x: Float) -> Float { expf(x) }
  static func log(_ x: Float) -> Float { logf(x) }
  static func tanh(_ x: Float) -> Float { tanhf(x) }
  static func erf(_ x: Float) -> Float { erff(x) }
  static func exponentiate(_ values: Elements<Float>) {
    unsafe exponential_f32(values.pointer, values.count)
  }
  static func applySigmoid(_ values: Elements<Float>) {
    unsafe sigmoid_f32(values.pointer, values.count)
  }
  static func dotParts(_ a: Elements<Float>, _ b: Elements<Float>, into parts: Elements<Float>) {
    unsafe dot_parts_f32(a.pointer, b.pointer, parts.pointer, a.count)
  }
}

extension Double: Real {
  static func exp(_ x: Double) -> Double { Glibc.exp(x) }
  static func log(_ x: Double) -> Double { Glibc.log(x) }
  static func tanh(_ x: Double) -> Double { Glibc.tanh(x) }
  static func erf(_ x: Double) -> Double { Glibc.erf(x) }
  static func exponentiate(_ values: Elements<Double>) { values.replace { exp($0) } }
  static func applySigmoid(_ values: Elements<Double>) { values.replace { sigmoid($0) } }
  static func dotParts(
    _ a: Elements<Double>, _ b: Elements<Double>, into parts: Elements<Double>
  ) {
    unsafe dot_parts_f64(a.pointer, b.pointer, parts.pointer, a.count)
  }
}

extension Real {
  /// 1 / (1 + e^-x), without overflow and accurate at both ends.
  static func sigmoid(_ x: Self) -> Self { 1 / (1 + exp(-x)) }
}
