/// gpt-oss's activation: with g = min(gate, limit) and u = clamp(up, ±limit),
/// (u + 1) · g · sigmoid(alpha · g). Beyond a limit the gradient is zero; NaN passes.
struct ClampedSwiGLU<R: Real> {
  let alpha: R
  let limit: R

  /// Replaces the row's gate by the activation.
  func apply(_ row: inout HiddenRow<R>) {
    for index in row.gate.indices {
      let g = clampedGate(row.gate[index])
      row.gate[index] = (clampedUp(row.up[index]) + 1) * g * R.sigmoid(alpha * g)
    }
  }

  /// Replaces the row by its gradient.
  func differentiate(_ row: inout HiddenRow<R>, gradOut: [R]) {
    for index in row.gate.indices {
      let (gate, up) = (row.gate[index], row.up[index])
      let (g, u) = (clampedGate(gate), clampedUp(up))
      let s = R.sigmoid(alpha * g)
      let gateDerivative = (u + 1) * (s + alpha * g * s * R.sigmoid(-alpha * g))
      row.gate[index] = gate > limit ? 0 : gradOut[index] * gateDerivative
      row.up[index] = up > limit || up < -limit ? 0 : gradOut[index] * g * s
    }
  }

  private func clampedGate(_ gate: R) -> R { gate > limit ? limit : gate }

  private func clampedUp(_ up: R) -> R { up > limit ? limit : up < -limit ? -limit : up }
}
