/// A function of one variable, applied to many values at once.
protocol ActivationFunction<R>: Sendable {
  associatedtype R: Real

  /// Replaces each x by f(x); `scratch` has the same length.
  func apply(_ x: Elements<R>, scratch: Elements<R>)

  /// Replaces each x by f'(x), and writes f(x) to `values`.
  func differentiate(_ x: Elements<R>, values: Elements<R>)
}

/// x · sigmoid(x).
struct SiLU<R: Real>: ActivationFunction {
  func apply(_ x: Elements<R>, scratch: Elements<R>) {
    scratch.setSigmoid(x) { $0 }
    for index in 0..<x.count { x[index] *= scratch[index] }
  }

  func differentiate(_ x: Elements<R>, values: Elements<R>) {
    values.setSigmoid(x) { $0 }
    for index in 0..<x.count {
      let s = values[index]
      values[index] = x[index] * s
      x[index] = s + x[index] * s * (1 - s)
    }
  }
}

/// x · (1 + tanh(u)) / 2 with u = √(2/π) (x + 0.044715 x³), which is x · sigmoid(2u).
struct GELUTanh<R: Real>: ActivationFunction {
  func apply(_ x: Elements<R>, scratch: Elements<R>) {
    scratch.setSigmoid(x, of: argument)
    for index in 0..<x.count { x[index] *= scratch[index] }
  }

  func differentiate(_ x: Elements<R>, values: Elements<R>) {
    values.setSigmoid(x, of: argument)
    for index in 0..<x.count {
      let s = values[index]
      values[index] = x[index] * s
      x[index] = s + x[index] * s * (1 - s) * argumentDerivative(x[index])
    }
  }

  private func argument(_ x: R) -> R { twiceSqrtTwoOverPi * (x + cubic * x * x * x) }

  private func argumentDerivative(_ x: R) -> R { twiceSqrtTwoOverPi * (1 + 3 * cubic * x * x) }

  private var twiceSqrtTwoOverPi: R { 1.595769121605730711759784239738 }
  private var cubic: R { 0.044715 }
}

/// x · Φ(x), where Φ is the cumulative distribution function of the standard normal distribution.
struct GELU<R: Real>: ActivationFunction {
  func apply(_ x: Elements<R>, scratch: Elements<R>) { x.replace { $0 * distribution($0) } }

  func differentiate(_ x: Elements<R>, values: Elements<R>) {
    for index in 0..<x.count {
      let phi = distribution(x[index])
      values[index] = x[index] * phi
      x[index] = phi + x[index] * density(x[index])
    }
  }

  private func distribution(_ x: R) -> R { (1 + R.erf(x * 0.707106781186547524400844362105)) / 2 }

  private func density(_ x: R) -> R { 0.398942280401432677939946059934 * R.exp(-x * x / 2) }
}

/// max(x, 0)².
struct ReLUSquared<R: Real>: ActivationFunction {
  func apply(_ x: Elements<R>, scratch: Elements<R>) { x.replace { $0 < 0 ? 0 : $0 * $0 } }

  func differentiate(_ x: Elements<R>, values: Elements<R>) {
    for index in 0..<x.count {
      values[index] = x[index] < 0 ? 0 : x[index] * x[index]
      x[index] = x[index] < 0 ? 0 : 2 * x[index]
    }
  }
}

extension Elements where Element: Real {
  /// Sets each element to sigmoid(argument(x)) of a row x of the same length.
  @inline(__always)
  func setSigmoid(_ x: Elements, of argument: (Element) -> Element) {
    for index in 0..<count { self[index] = argument(x[index]) }
    Element.applySigmoid(self)
  }
}
