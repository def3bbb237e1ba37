import AutoEPCore

/// One row of the pre-activation in the type that is computed in, parted into gate and up; plain
/// experts have no up.
struct HiddenRow<R: Real> {
  let gate: Elements<R>
  let up: Elements<R>
  /// As long as the gate, for intermediate values.
  let scratch: Elements<R>
  /// The gradient `[F]` of the activation's result.
  let gradOut: Elements<R>
  private let layout: ExpertsConfiguration.Gate

  /// Takes `byteCount(width:)` bytes of memory.
  init(gate layout: ExpertsConfiguration.Gate, width: Int, _ memory: ScratchMemory) {
    self.layout = layout
    gate = memory.elements(R.self, from: 0, count: width)
    up = memory.elements(R.self, from: width, count: layout == .none ? 0 : width)
    scratch = memory.elements(R.self, from: 2 * width, count: width)
    gradOut = memory.elements(R.self, from: 3 * width, count: width)
  }

  static func byteCount(width: Int) -> Int { 4 * width * MemoryLayout<R>.stride }

  /// G.
  var hiddenWidth: Int { gate.count + up.count }

  /// Reads a row `[G]`.
  func load<S: Scalar>(_ hidden: Elements<S>) where S.Wide == R {
    if layout == .interleaved {
      for index in 0..<gate.count {
        gate[index] = hidden[2 * index].wide
        up[index] = hidden[2 * index + 1].wide
      }
    } else {
      hidden[0..<gate.count].widen(into: gate)
      hidden[gate.count..<hiddenWidth].widen(into: up)
    }
  }

  /// Writes a row `[G]`.
  func store<S: Scalar>(into hidden: Elements<S>) where S.Wide == R {
    if layout == .interleaved {
      for index in 0..<gate.count {
        hidden[2 * index] = S(rounding: gate[index])
        hidden[2 * index + 1] = S(rounding: up[index])
      }
    } else {
      hidden[0..<gate.count].store(gate)
      hidden[gate.count..<hiddenWidth].store(up)
    }
  }
}
