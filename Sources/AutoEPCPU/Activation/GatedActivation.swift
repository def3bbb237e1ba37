import AutoEPCore

/// The activation of an expert, applied to rows.
struct GatedActivation<R: Real> {
  private let activation: ExpertsConfiguration.Activation
  private let clamped: ClampedSwiGLU<R>

  init(_ configuration: ExpertsConfiguration) {
    activation = configuration.activation
    clamped = ClampedSwiGLU(
      alpha: R(configuration.swigluAlpha), limit: R(configuration.swigluLimit))
  }

  /// Replaces the row's gate by the activation.
  func apply(_ row: inout HiddenRow<R>) {
    if activation == .clampedSwiGLU { return clamped.apply(&row) }
    transformGate(&row.gate)
    for index in row.up.indices { row.gate[index] *= row.up[index] }
  }

  /// Replaces the row by its gradient.
  func differentiate(_ row: inout HiddenRow<R>, gradOut: [R]) {
    if activation == .clampedSwiGLU { return clamped.differentiate(&row, gradOut: gradOut) }
    var values = row.gate
    if !row.up.isEmpty { transformGate(&values) }
    replaceByDerivative(&row.gate)
    for index in gradOut.indices {
      let gradActivated = row.up.isEmpty ? gradOut[index] : gradOut[index] * row.up[index]
      row.gate[index] *= gradActivated
    }
    for index in row.up.indices { row.up[index] = gradOut[index] * values[index] }
  }

  private func transformGate(_ values: inout [R]) {
    switch activation {
    case .silu: for index in values.indices { values[index] = silu(values[index]) }
    case .gelu: for index in values.indices { values[index] = gelu(values[index]) }
    case .geluTanh: for index in values.indices { values[index] = geluTanh(values[index]) }
    case .reluSquared: for index in values.indices { values[index] = reluSquared(values[index]) }
    case .clampedSwiGLU: break
    }
  }

  private func replaceByDerivative(_ values: inout [R]) {
    switch activation {
    case .silu: for index in values.indices { values[index] = siluDerivative(values[index]) }
    case .gelu: for index in values.indices { values[index] = geluDerivative(values[index]) }
    case .geluTanh:
      for index in values.indices { values[index] = geluTanhDerivative(values[index]) }
    case .reluSquared:
      for index in values.indices { values[index] = reluSquaredDerivative(values[index]) }
    case .clampedSwiGLU: break
    }
  }
}
