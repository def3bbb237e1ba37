import AutoEPCore

/// A block of the pre-activation in the type that is computed in, parted into gate and up; plain
/// experts have no up.
struct HiddenBlock<R: Real> {
  let gate: Elements<R>
  let up: Elements<R>
  /// As long as the gate, for intermediate values.
  let scratch: Elements<R>
  /// The gradient of the activation's result.
  let gradOut: Elements<R>

  /// A block of `count` gates, on a piece of the workbench.
  init(count: Int, gate layout: ExpertsConfiguration.Gate, on bench: Workbench) {
    let memory = bench.elements(R.self, for: .hidden, count: 4 * count)
    gate = memory[0..<count]
    up = memory[count..<(layout == .none ? count : 2 * count)]
    scratch = memory[2 * count..<3 * count]
    gradOut = memory[3 * count..<4 * count]
  }

  /// A row of a block of rows of `width` gates.
  func row(_ index: Int, width: Int) -> (gate: Elements<R>, up: Elements<R>) {
    (gate.row(index, width: width), up.count == 0 ? up : up.row(index, width: width))
  }

  /// Adds a group's bias to rows of these columns.
  func add<S: Scalar>(_ bias: HiddenRows<S>, of group: Int, columns: Range<Int>)
  where S.Wide == R {
    let width = columns.count
    let (gates, ups) = (scratch[0..<width], gradOut[0..<min(width, up.count)])
    bias.load(group, columns: columns, gate: gates, up: ups)
    for index in 0..<gate.count / width {
      let row = self.row(index, width: width)
      row.gate.add(gates)
      row.up.add(ups)
    }
  }
}
