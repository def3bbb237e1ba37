import AutoEPCore

/// One row of the pre-activation, parted into gate and up; plain experts have no up.
struct HiddenRow<R: Real> {
  private let layout: ExpertsConfiguration.Gate
  private let width: Int
  var gate: [R]
  var up: [R]

  init(gate layout: ExpertsConfiguration.Gate, width: Int) {
    self.layout = layout
    self.width = width
    gate = Array(repeating: 0, count: width)
    up = Array(repeating: 0, count: layout == .none ? 0 : width)
  }

  /// G.
  var hiddenWidth: Int { layout == .none ? width : 2 * width }

  /// Reads a row `[G]`.
  mutating func load<S: Scalar>(_ hidden: Elements<S>) where S.Wide == R {
    for index in gate.indices { gate[index] = hidden[gatePlace(index)].wide }
    for index in up.indices { up[index] = hidden[upPlace(index)].wide }
  }

  /// Writes a row `[G]`.
  func store<S: Scalar>(into hidden: Elements<S>) where S.Wide == R {
    for index in gate.indices { hidden[gatePlace(index)] = S(rounding: gate[index]) }
    for index in up.indices { hidden[upPlace(index)] = S(rounding: up[index]) }
  }

  private func gatePlace(_ index: Int) -> Int { layout == .interleaved ? 2 * index : index }

  private func upPlace(_ index: Int) -> Int {
    layout == .interleaved ? 2 * index + 1 : width + index
  }
}
