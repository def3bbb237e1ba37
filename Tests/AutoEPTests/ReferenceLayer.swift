import AutoEPCore
import Foundation

/// An MoE layer's experts by the formulas, one token and one expert at a time.
struct ReferenceLayer: Sendable {
  var configuration: ExpertsConfiguration
  /// The expert of each slot; -1 for none.
  var topkIdx: [Int]

  /// Everything that the result depends on.
  struct Inputs<Number: Field>: Sendable {
    var x: [Number]
    var topkWeights: [Number]
    var gateUp: [Number]
    var gateUpBias: [Number]
    var down: [Number]
    var downBias: [Number]
  }

  func forward<Number: Field>(_ inputs: Inputs<Number>) -> [Number] {
    let (h, k) = (configuration.hiddenSize, configuration.topK)
    let tokens = topkIdx.count / k
    var y = [Number](repeating: Number(0), count: tokens * h)
    for token in 0..<tokens {
      let x = Array(inputs.x[token * h..<(token + 1) * h])
      for slot in token * k..<(token + 1) * k where topkIdx[slot] >= 0 {
        let weight = inputs.topkWeights[slot]
        let before = configuration.applyWeights == .before
        let result = expert(topkIdx[slot], before ? x.map { $0 * weight } : x, inputs)
        for i in 0..<h {
          y[token * h + i] = y[token * h + i] + (before ? result[i] : result[i] * weight)
        }
      }
    }
    return y
  }

  private func expert<Number: Field>(
    _ expert: Int, _ x: [Number], _ inputs: Inputs<Number>
  ) -> [Number] {
    let (h, f, g) = (
      configuration.hiddenSize, configuration.ffnSize, configuration.gateUpSize
    )
    let hidden = linear(x, inputs.gateUp, inputs.gateUpBias, expert, input: h, output: g)
    return linear(activation(hidden), inputs.down, inputs.downBias, expert, input: f, output: h)
  }

  private func linear<Number: Field>(
    _ x: [Number], _ weights: [Number], _ bias: [Number], _ expert: Int, input: Int, output: Int
  ) -> [Number] {
    (0..<output).map { o in
      var sum = bias.isEmpty ? Number(0) : bias[expert * output + o]
      for i in 0..<input {
        let place = configuration.weightLayout == .outIn ? o * input + i : i * output + o
        sum = sum + x[i] * weights[expert * input * output + place]
      }
      return sum
    }
  }

  private func activation<Number: Field>(_ hidden: [Number]) -> [Number] {
    let f = configuration.ffnSize
    return (0..<f).map { i in
      switch configuration.gate {
      case .none: act(hidden[i])
      case .concatenated: gated(hidden[i], hidden[f + i])
      case .interleaved: gated(hidden[2 * i], hidden[2 * i + 1])
      }
    }
  }

  private func gated<Number: Field>(_ gate: Number, _ up: Number) -> Number {
    guard configuration.activation.isClamped else { return act(gate) * up }
    let (alpha, limit) = (configuration.gateAlpha, configuration.swigluLimit)
    let g = gate.value > limit ? Number(limit) : gate
    let u = abs(up.value) > limit ? Number(up.value > 0 ? limit : -limit) : up
    let s = 1 / (1 + exp(-alpha * g.value))
    let offset: Double = configuration.activation == .clampedSwiGLU ? 1 : 0
    return (u + Number(offset)) * g * g.mapped(s, slope: alpha * s * (1 - s))
  }

  private func act<Number: Field>(_ x: Number) -> Number {
    let v = x.value
    switch configuration.activation {
    case .silu:
      let s = 1 / (1 + exp(-v))
      return x.mapped(v * s, slope: s + v * s * (1 - s))
    case .gelu:
      let phi = 0.5 * (1 + erf(v / 2.0.squareRoot()))
      return x.mapped(v * phi, slope: phi + v * exp(-v * v / 2) / (2 * Double.pi).squareRoot())
    case .geluTanh:
      let c = (2 / Double.pi).squareRoot()
      let t = tanh(c * (v + 0.044715 * v * v * v))
      let slope = 0.5 * (1 + t) + 0.5 * v * (1 - t * t) * c * (1 + 3 * 0.044715 * v * v)
      return x.mapped(0.5 * v * (1 + t), slope: slope)
    case .reluSquared:
      return x.mapped(v > 0 ? v * v : 0, slope: v > 0 ? 2 * v : 0)
    case .clampedSwiGLU, .clampedSiLU:
      fatalError("the clamped activations have a gate")
    }
  }
}

extension ReferenceLayer {
  /// The gradient of ⟨gradY, y⟩ with respect to one of the inputs, computed element by element.
  func gradient(
    _ inputs: Inputs<Double>, _ gradY: [Double], to input: WritableKeyPath<Inputs<Dual>, [Dual]>
  ) -> [Double] {
    var dual = Inputs(
      x: inputs.x.map(Dual.init), topkWeights: inputs.topkWeights.map(Dual.init),
      gateUp: inputs.gateUp.map(Dual.init), gateUpBias: inputs.gateUpBias.map(Dual.init),
      down: inputs.down.map(Dual.init), downBias: inputs.downBias.map(Dual.init))
    return dual[keyPath: input].indices.map { index in
      dual[keyPath: input][index].slope = 1
      defer { dual[keyPath: input][index].slope = 0 }
      return zip(forward(dual), gradY).reduce(0) { $0 + $1.0.slope * $1.1 }
    }
  }
}
