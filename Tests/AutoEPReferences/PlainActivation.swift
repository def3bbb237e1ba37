import AutoEPCore

/// The activation of an expert in f64, written as in its paper.
package struct PlainActivation {
  package let configuration: ExpertsConfiguration

  /// Describes the activation of these experts.
  package init(configuration: ExpertsConfiguration) {
    self.configuration = configuration
  }

  /// Computes a row `[F]` from a row `[G]`, with derivatives.
  package func row(_ hidden: [Dual]) -> [Dual] {
    (0..<configuration.ffnSize).map { column in
      let (gate, up) = places(row: 0, column: column)
      return activate(hidden[gate], up.map { hidden[$0] } ?? Dual(1))
    }
  }

  /// Computes `[R,F]` from `[R,G]`, row by row.
  package func callAsFunction(_ hidden: [Double]) -> [Double] {
    map(hidden) { activate($0, $1).value }
  }

  /// The gradient of ⟨gradOut, activation⟩ with respect to hidden, `[R,G]`.
  package func gradient(_ hidden: [Double], _ gradOut: [Double]) -> [Double] {
    let byGate = map(hidden) { activate(Dual($0.value, slope: 1), $1).slope }
    let byUp = map(hidden) { activate($0, Dual($1.value, slope: 1)).slope }
    let width = configuration.ffnSize
    var result = [Double](repeating: 0, count: hidden.count)
    for index in gradOut.indices {
      let (gate, up) = places(row: index / width, column: index % width)
      result[gate] = gradOut[index] * byGate[index]
      if let up { result[up] = gradOut[index] * byUp[index] }
    }
    return result
  }

  private func map(_ hidden: [Double], _ body: (Dual, Dual) -> Double) -> [Double] {
    let width = configuration.ffnSize
    let count = hidden.count / configuration.gateUpSize * width
    return (0..<count).map { index in
      let (gate, up) = places(row: index / width, column: index % width)
      return body(Dual(hidden[gate]), Dual(up.map { hidden[$0] } ?? 1))
    }
  }

  /// The indices of a gate and its up in `[R,G]`.
  private func places(row: Int, column: Int) -> (gate: Int, up: Int?) {
    let first = row * configuration.gateUpSize
    switch configuration.gate {
    case .none: return (first + column, nil)
    case .concatenated: return (first + column, first + configuration.ffnSize + column)
    case .interleaved: return (first + 2 * column, first + 2 * column + 1)
    }
  }

  private func activate(_ gate: Dual, _ up: Dual) -> Dual {
    guard configuration.activation.isClamped else { return function(gate) * up }
    let limit = configuration.swigluLimit
    let g = gate.value > limit ? Dual(limit) : gate
    let u = abs(up.value) > limit ? Dual(up.value > 0 ? limit : -limit) : up
    let offset: Double = configuration.activation == .clampedSwiGLU ? 1 : 0
    return (u + offset) * g * (configuration.gateAlpha * g).sigmoid
  }

  private func function(_ x: Dual) -> Dual {
    switch configuration.activation {
    case .silu: x * x.sigmoid
    case .gelu: 0.5 * x * ((0.5.squareRoot() * x).erf + 1)
    case .geluTanh:
      0.5 * x * (((2 / Double.pi).squareRoot() * (x + 0.044715 * (x * x * x))).tanh + 1)
    case .reluSquared: x.value > 0 ? x * x : Dual(0)
    case .clampedSwiGLU, .clampedSiLU: Dual(.nan)
    }
  }
}
