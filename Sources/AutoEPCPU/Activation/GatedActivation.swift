import AutoEPCore

/// An expert's activation, applied to blocks. Each function is called through its concrete type, so that
/// the compiler generates a loop for it.
enum GatedActivation<R: Real> {
  case silu
  case gelu
  case geluTanh
  case reluSquared
  case clamped(ClampedSwiGLU<R>)

  init(_ configuration: ExpertsConfiguration) {
    self =
      switch configuration.activation {
      case .silu: .silu
      case .gelu: .gelu
      case .geluTanh: .geluTanh
      case .reluSquared: .reluSquared
      case .clampedSwiGLU: .clamped(Self.clamped(configuration, offset: 1))
      case .clampedSiLU: .clamped(Self.clamped(configuration, offset: 0))
      }
  }

  private static func clamped(
    _ configuration: ExpertsConfiguration, offset: R
  ) -> ClampedSwiGLU<R> {
    ClampedSwiGLU(
      alpha: R(configuration.gateAlpha), limit: R(configuration.swigluLimit), offset: offset)
  }

  /// Replaces the gates by the activation.
  func apply(_ block: HiddenBlock<R>) {
    switch self {
    case .silu: apply(SiLU(), block)
    case .gelu: apply(GELU(), block)
    case .geluTanh: apply(GELUTanh(), block)
    case .reluSquared: apply(ReLUSquared(), block)
    case .clamped(let function): function.apply(block)
    }
  }

  /// Replaces gates and ups by their gradients, and scratch by the activation; `gradOut` is only read.
  func differentiate(_ block: HiddenBlock<R>) {
    switch self {
    case .silu: differentiate(SiLU(), block)
    case .gelu: differentiate(GELU(), block)
    case .geluTanh: differentiate(GELUTanh(), block)
    case .reluSquared: differentiate(ReLUSquared(), block)
    case .clamped(let function): function.differentiate(block)
    }
  }

  private func apply<F: ActivationFunction<R>>(_ function: F, _ block: HiddenBlock<R>) {
    function.apply(block.gate, scratch: block.scratch)
    for index in 0..<block.up.count { block.gate[index] *= block.up[index] }
  }

  private func differentiate<F: ActivationFunction<R>>(_ function: F, _ block: HiddenBlock<R>) {
    // `scratch` receives the values, `gate` the derivatives.
    function.differentiate(block.gate, values: block.scratch)
    if block.up.count == 0 {
      for index in 0..<block.gate.count { block.gate[index] *= block.gradOut[index] }
    } else {
      for index in 0..<block.gate.count {
        let (up, value) = (block.up[index], block.scratch[index])
        block.gate[index] *= block.gradOut[index] * up
        block.up[index] = block.gradOut[index] * value
        block.scratch[index] = value * up
      }
    }
  }
}
