import AutoEPCore

/// The activation of an expert, applied to rows. Each function is called by its own type, so that
/// the compiler makes a loop for it.
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

  /// Replaces the row's gate by the activation.
  func apply(_ row: HiddenRow<R>) {
    switch self {
    case .silu: apply(SiLU(), row)
    case .gelu: apply(GELU(), row)
    case .geluTanh: apply(GELUTanh(), row)
    case .reluSquared: apply(ReLUSquared(), row)
    case .clamped(let function): function.apply(row)
    }
  }

  /// Replaces the row by its gradient.
  func differentiate(_ row: HiddenRow<R>) {
    switch self {
    case .silu: differentiate(SiLU(), row)
    case .gelu: differentiate(GELU(), row)
    case .geluTanh: differentiate(GELUTanh(), row)
    case .reluSquared: differentiate(ReLUSquared(), row)
    case .clamped(let function): function.differentiate(row)
    }
  }

  private func apply<F: ActivationFunction<R>>(_ function: F, _ row: HiddenRow<R>) {
    function.apply(row.gate, scratch: row.scratch)
    for index in 0..<row.up.count { row.gate[index] *= row.up[index] }
  }

  private func differentiate<F: ActivationFunction<R>>(_ function: F, _ row: HiddenRow<R>) {
    // Scratch gets the values, the gate its derivatives.
    function.differentiate(row.gate, values: row.scratch)
    if row.up.count == 0 {
      for index in 0..<row.gate.count { row.gate[index] *= row.gradOut[index] }
    } else {
      for index in 0..<row.gate.count {
        row.gate[index] *= row.gradOut[index] * row.up[index]
        row.up[index] = row.gradOut[index] * row.scratch[index]
      }
    }
  }
}
