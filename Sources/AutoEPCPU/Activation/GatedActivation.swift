import AutoEPCore

/// The activation of an expert, applied to rows.
enum GatedActivation<R: Real> {
  case plain(any ActivationFunction<R>)
  case clampedSwiGLU(ClampedSwiGLU<R>)

  init(_ configuration: ExpertsConfiguration) {
    self =
      switch configuration.activation {
      case .silu: .plain(SiLU())
      case .gelu: .plain(GELU())
      case .geluTanh: .plain(GELUTanh())
      case .reluSquared: .plain(ReLUSquared())
      case .clampedSwiGLU:
        .clampedSwiGLU(
          ClampedSwiGLU(
            alpha: R(configuration.swigluAlpha), limit: R(configuration.swigluLimit)))
      }
  }

  /// Replaces the row's gate by the activation.
  func apply(_ row: HiddenRow<R>) {
    switch self {
    case .plain(let function):
      function.apply(row.gate, scratch: row.scratch)
      for index in 0..<row.up.count { row.gate[index] *= row.up[index] }
    case .clampedSwiGLU(let function): function.apply(row)
    }
  }

  /// Replaces the row by its gradient.
  func differentiate(_ row: HiddenRow<R>) {
    switch self {
    case .plain(let function): differentiate(row, function)
    case .clampedSwiGLU(let function): function.differentiate(row)
    }
  }

  private func differentiate(_ row: HiddenRow<R>, _ function: any ActivationFunction<R>) {
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
