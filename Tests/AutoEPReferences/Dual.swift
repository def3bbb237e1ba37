import Glibc

/// A number and its derivative along one direction, with which references compute exact gradients.
package struct Dual {
  package var value: Double
  package var slope: Double

  package init(_ value: Double, slope: Double = 0) {
    self.value = value
    self.slope = slope
  }

  package static func + (a: Dual, b: Dual) -> Dual {
    Dual(a.value + b.value, slope: a.slope + b.slope)
  }

  package static func * (a: Dual, b: Dual) -> Dual {
    Dual(a.value * b.value, slope: a.slope * b.value + a.value * b.slope)
  }

  package static func / (a: Dual, b: Dual) -> Dual {
    let quotient = a.value / b.value
    return Dual(quotient, slope: (a.slope - quotient * b.slope) / b.value)
  }

  package static func + (a: Dual, b: Double) -> Dual { a + Dual(b) }
  package static func * (a: Double, b: Dual) -> Dual { Dual(a) * b }

  package var exp: Dual {
    let e = Glibc.exp(value)
    return Dual(e, slope: e * slope)
  }

  package var log: Dual { Dual(Glibc.log(value), slope: slope / value) }

  package var tanh: Dual {
    let t = Glibc.tanh(value)
    return Dual(t, slope: (1 - t * t) * slope)
  }

  package var erf: Dual {
    let density = 2 / Double.pi.squareRoot() * Glibc.exp(-value * value)
    return Dual(Glibc.erf(value), slope: density * slope)
  }

  package var sigmoid: Dual { Dual(1) / (Dual(1) + (-1 * self).exp) }
}

/// The gradient of a scalar function at a point, computed one direction after another.
package func gradient(at point: [Double], of function: ([Dual]) -> Dual) -> [Double] {
  point.indices.map { direction in
    function(point.enumerated().map { Dual($1, slope: $0 == direction ? 1 : 0) }).slope
  }
}
