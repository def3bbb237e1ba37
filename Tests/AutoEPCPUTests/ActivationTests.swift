import AutoEPCPU
import AutoEPCore
import Testing

/// An activation in f64, as its paper writes it.
struct ReferenceActivation {
  let configuration: ExpertsConfiguration

  /// A row `[F]` from a row `[G]`.
  func callAsFunction(_ hidden: [Dual]) -> [Dual] {
    let width = configuration.ffnSize
    return (0..<width).map { index in
      switch configuration.gate {
      case .none: activate(hidden[index])
      case .concatenated: gated(hidden[index], hidden[width + index])
      case .interleaved: gated(hidden[2 * index], hidden[2 * index + 1])
      }
    }
  }

  private func gated(_ gate: Dual, _ up: Dual) -> Dual {
    guard configuration.activation.isClamped else { return activate(gate) * up }
    let limit = configuration.swigluLimit
    let g = gate.value > limit ? Dual(limit) : gate
    let u = abs(up.value) > limit ? Dual(up.value > 0 ? limit : -limit) : up
    let offset: Double = configuration.activation == .clampedSwiGLU ? 1 : 0
    return (u + offset) * g * (configuration.gateAlpha * g).sigmoid
  }

  private func activate(_ x: Dual) -> Dual {
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

@Suite struct ActivationTests {
  typealias Activation = ExpertsConfiguration.Activation
  typealias Gate = ExpertsConfiguration.Gate

  @Test(arguments: [Activation.silu, .gelu, .geluTanh, .reluSquared, .clampedSwiGLU, .clampedSiLU])
  func forwardAndBackwardAreTheReferences(activation: Activation) throws {
    for gate in [Gate.none, .concatenated, .interleaved]
    where gate != .none || !activation.isClamped {
      for dtype in [DataType.f64, .f32, .bf16] {
        for (numRows, width) in [(0, 4), (1, 1), (3, 17), (20, 33)] {
          check(configuration(activation, gate, width, dtype), numRows)
        }
      }
    }
  }

  @Test(arguments: [Activation.silu, .gelu, .geluTanh, .reluSquared, .clampedSwiGLU, .clampedSiLU])
  func backwardMayOverwriteItsInputs(activation: Activation) throws {
    // G = F holds for plain experts only, which the clamped one never is.
    guard !activation.isClamped else { return }
    let experts = configuration(activation, .none, 20, .f32)
    var random = Random(82)
    let hidden = random.tensor([5, 20], .f32)
    let gradOut = random.tensor([5, 20], .f32)
    let expected = Tensor([5, 20], .f32)
    let backend = try CPUBackend(numThreads: 2)
    backend.activateBackward(
      experts, hidden: hidden.view, gradOut: gradOut.view, into: expected.view)
    let hiddenCopy = Tensor(hidden.values, [5, 20], .f32)
    backend.activateBackward(
      experts, hidden: hiddenCopy.view, gradOut: gradOut.view, into: hiddenCopy.view)
    #expect(hiddenCopy.bytes == expected.bytes)
    backend.activateBackward(
      experts, hidden: hidden.view, gradOut: gradOut.view, into: gradOut.view)
    #expect(gradOut.bytes == expected.bytes)
  }

  @Test(arguments: [Activation.silu, .gelu, .geluTanh, .clampedSwiGLU, .clampedSiLU])
  func largeInputsDoNotOverflow(activation: Activation) throws {
    let experts = configuration(activation, .concatenated, 4, .f32)
    let hidden = Tensor([500, -500, 1e4, -1e4, 1, 1, 1, 1], [1, 8], .f32)
    let (out, gradHidden) = (Tensor([1, 4], .f32), Tensor([1, 8], .f32))
    let backend = try CPUBackend(numThreads: 1)
    backend.activate(experts, hidden: hidden.view, into: out.view)
    let reference = ReferenceActivation(configuration: experts)
    expectClose(out, reference(hidden.values.map { Dual($0) }).map(\.value))
    backend.activateBackward(
      experts, hidden: hidden.view, gradOut: Tensor([1, 1, 1, 1], [1, 4], .f32).view,
      into: gradHidden.view)
    #expect(gradHidden.values.allSatisfy { $0.isFinite })
  }

  private func configuration(
    _ activation: Activation, _ gate: Gate, _ width: Int, _ dtype: DataType
  ) -> ExpertsConfiguration {
    var experts = ExpertsConfiguration(numExperts: 1, hiddenSize: 1, ffnSize: width, dtype: dtype)
    experts.activation = activation
    experts.gate = gate
    experts.swigluAlpha = 1.702
    // Some random inputs, within ±1.74, lie beyond it.
    experts.swigluLimit = 1.25
    return experts
  }

  private func check(_ experts: ExpertsConfiguration, _ numRows: Int) {
    var random = Random(81)
    let backend = testBackend()
    let (width, hiddenWidth, dtype) = (experts.ffnSize, experts.gateUpSize, experts.dtype)
    let hidden = random.tensor([numRows, hiddenWidth], dtype)
    let gradOut = random.tensor([numRows, width], dtype)
    let out = Tensor([numRows, width], dtype)
    let gradHidden = Tensor([numRows, hiddenWidth], dtype)
    backend.activate(experts, hidden: hidden.view, into: out.view)
    backend.activateBackward(
      experts, hidden: hidden.view, gradOut: gradOut.view, into: gradHidden.view)

    let reference = ReferenceActivation(configuration: experts)
    let (hiddenValues, gradValues) = (hidden.values, gradOut.values)
    var expected: [Double] = []
    var expectedGradient: [Double] = []
    for row in 0..<numRows {
      let point = Array(hiddenValues[row * hiddenWidth..<(row + 1) * hiddenWidth])
      let grad = Array(gradValues[row * width..<(row + 1) * width])
      expected += reference(point.map { Dual($0) }).map(\.value)
      expectedGradient += gradient(at: point) { hidden in
        zip(reference(hidden), grad).reduce(Dual(0)) { $0 + $1.1 * $1.0 }
      }
    }
    let label = "\(experts.activation) \(experts.gate)"
    expectClose(out, expected, label)
    expectClose(gradHidden, expectedGradient, label)
  }
}
