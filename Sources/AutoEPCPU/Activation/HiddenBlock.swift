import AutoEPCore

/// A block of the pre-activation in the type of the computation, split into gate and up; experts without a gate
/// have no up. Each row starts at a multiple of a whole vector; the padding between rows is undefined.
struct HiddenBlock<R: Real> {
  let rowCount: Int
  /// The gates per row.
  let width: Int
  /// The distance between rows.
  let stride: Int
  let gate: Elements<R>
  let up: Elements<R>
  /// As long as `gate`: intermediate values; after the activation's backward, the activation.
  let scratch: Elements<R>
  /// The gradient of the activation's result.
  let gradOut: Elements<R>
  /// Interleaved gates and ups, `2 * stride` per row, if they are stored so.
  private let pairs: Elements<R>
  private let layout: ExpertsConfiguration.Gate

  /// Makes a block for rows of `width` gates in memory of the workbench.
  init(rows: Int, width: Int, gate layout: ExpertsConfiguration.Gate, on bench: Workbench) {
    rowCount = rows
    self.width = width
    stride = width.roundedUp(to: 64 / MemoryLayout<R>.stride)
    self.layout = layout
    let count = rows * stride
    let memory = bench.elements(
      R.self, for: .hidden, count: (layout == .interleaved ? 6 : 4) * count)
    gate = memory[0..<count]
    up = memory[count..<(layout == .none ? count : 2 * count)]
    scratch = memory[2 * count..<3 * count]
    gradOut = memory[3 * count..<4 * count]
    pairs = memory[4 * count..<memory.count]
  }

  /// The gates and ups of a row.
  func row(_ index: Int) -> (gate: Elements<R>, up: Elements<R>) {
    (part(gate, index), up.count == 0 ? up : part(up, index))
  }

  /// The gradient of the activation's result for a row.
  func gradOutRow(_ index: Int) -> Elements<R> { part(gradOut, index) }

  /// Writes the parts of ⟨gradient of the activation, activation⟩ to `dots`, starting at the block's first column.
  /// Call it after the activation's backward and before `weigh`.
  func storeDots(_ index: Int, into dots: Elements<R>, firstColumn: Int) {
    let first = firstColumn / DotParts<R>.width
    R.dotParts(
      gradOutRow(index), part(scratch, index),
      into: dots[first..<first + DotParts<R>.count(width)])
  }

  /// Multiplies a row's gradients and activation by its weight. Call it after the activation's backward.
  func weigh(_ index: Int, by weight: R) {
    let (gates, ups) = row(index)
    gates.scale(by: weight)
    ups.scale(by: weight)
    part(scratch, index).scale(by: weight)
  }

  /// Copies the sums of gates and ups; the ups are those of a second weight, or interleaved with the gates.
  func take(_ block: SumBlock<R>) {
    guard layout == .interleaved else {
      block.copy(block.sums, into: gate, stride: stride)
      if let ups = block.secondSums { block.copy(ups, into: up, stride: stride) }
      return
    }
    block.copy(block.sums, into: pairs, stride: 2 * stride)
    for index in 0..<rowCount {
      let (gates, ups) = row(index)
      for column in 0..<width {
        gates[column] = pairs[2 * (index * stride + column)]
        ups[column] = pairs[2 * (index * stride + column) + 1]
      }
    }
  }

  /// Rounds some columns of gates and their ups into rows `[G]` of a pre-activation.
  func store(
    into rows: RowAddresses, columns: Range<Int>, ffnSize: Int, by kernel: MatrixKernel<R>
  ) {
    guard layout == .interleaved else {
      kernel.store(gate, stride: stride, into: rows, columns: columns)
      if up.count > 0 {
        let ups = columns.lowerBound + ffnSize..<columns.upperBound + ffnSize
        kernel.store(up, stride: stride, into: rows, columns: ups)
      }
      return
    }
    for index in 0..<rowCount {
      let (gates, ups) = row(index)
      for column in 0..<width {
        pairs[2 * (index * stride + column)] = gates[column]
        pairs[2 * (index * stride + column) + 1] = ups[column]
      }
    }
    kernel.store(
      pairs, stride: 2 * stride, into: rows,
      columns: 2 * columns.lowerBound..<2 * columns.upperBound)
  }

  /// Adds a group's bias to these columns of all rows.
  func add<S: Scalar>(_ bias: HiddenRows<S>, of group: Int, columns: Range<Int>)
  where S.Wide == R {
    let (gates, ups) = (scratch[0..<width], gradOut[0..<min(width, up.count)])
    bias.load(group, columns: columns, gate: gates, up: ups)
    for index in 0..<rowCount {
      let row = self.row(index)
      row.gate.add(gates)
      row.up.add(ups)
    }
  }

  private func part(_ values: Elements<R>, _ index: Int) -> Elements<R> {
    values[index * stride..<index * stride + width]
  }
}
