/// A clamped activation: with g = min(gate, limit) and u = clamp(up, ±limit) + offset,
/// u · g · sigmoid(alpha · g). Beyond a limit the gradient is zero; NaN passes.
struct ClampedSwiGLU<R: Real> {
  let alpha: R
  let limit: R
  let offset: R

  /// Replaces the gates by the activation.
  func apply(_ block: HiddenBlock<R>) {
    block.scratch.setSigmoid(block.gate) { alpha * clampedGate($0) }
    for index in 0..<block.gate.count {
      let g = clampedGate(block.gate[index])
      block.gate[index] = clampedUp(block.up[index]) * g * block.scratch[index]
    }
  }

  /// Replaces gates and ups by their gradients, and scratch by the activation; `gradOut` is only read.
  func differentiate(_ block: HiddenBlock<R>) {
    block.scratch.setSigmoid(block.gate) { alpha * clampedGate($0) }
    for index in 0..<block.gate.count {
      let (gate, up, s) = (block.gate[index], block.up[index], block.scratch[index])
      let (g, u) = (clampedGate(gate), clampedUp(up))
      let gateDerivative = u * (s + alpha * g * s * (1 - s))
      block.gate[index] = gate > limit ? 0 : block.gradOut[index] * gateDerivative
      block.up[index] = up > limit || up < -limit ? 0 : block.gradOut[index] * g * s
      block.scratch[index] = u * g * s
    }
  }

  private func clampedGate(_ gate: R) -> R { gate > limit ? limit : gate }

  private func clampedUp(_ up: R) -> R {
    (up > limit ? limit : up < -limit ? -limit : up) + offset
  }
}
