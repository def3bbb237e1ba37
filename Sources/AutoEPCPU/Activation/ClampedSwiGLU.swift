/// A clamped activation: with g = min(gate, limit) and u = clamp(up, ±limit) + offset,
/// u · g · sigmoid(alpha · g). Beyond a limit the gradient is zero; NaN passes.
struct ClampedSwiGLU<R: Real> {
  let alpha: R
  let limit: R
  let offset: R

  /// Replaces the row's gate by the activation.
  func apply(_ row: HiddenRow<R>) {
    row.scratch.setSigmoid(row.gate) { alpha * clampedGate($0) }
    for index in 0..<row.gate.count {
      let g = clampedGate(row.gate[index])
      row.gate[index] = clampedUp(row.up[index]) * g * row.scratch[index]
    }
  }

  /// Replaces the row by its gradient.
  func differentiate(_ row: HiddenRow<R>) {
    row.scratch.setSigmoid(row.gate) { alpha * clampedGate($0) }
    for index in 0..<row.gate.count {
      let (gate, up, s) = (row.gate[index], row.up[index], row.scratch[index])
      let (g, u) = (clampedGate(gate), clampedUp(up))
      let gateDerivative = u * (s + alpha * g * s * (1 - s))
      row.gate[index] = gate > limit ? 0 : row.gradOut[index] * gateDerivative
      row.up[index] = up > limit || up < -limit ? 0 : row.gradOut[index] * g * s
    }
  }

  private func clampedGate(_ gate: R) -> R { gate > limit ? limit : gate }

  private func clampedUp(_ up: R) -> R {
    (up > limit ? limit : up < -limit ? -limit : up) + offset
  }
}
