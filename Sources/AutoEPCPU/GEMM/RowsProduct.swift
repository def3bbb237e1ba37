/// Rows times the weights of one expert, in blocks that the caller finishes while they are in the cache.
///
/// A sum runs over the inputs in blocks of one fixed depth, each in order: its bits depend on the values of
/// its row, on its weights and on the kernel alone.
struct RowsProduct<S: RowScalar> {
  private let kernel: MatrixKernel<S.Wide>
  private let bench: Workbench
  private let first: Factor
  private let second: Factor?
  private let targets: [ProductTarget<S>]

  /// - Parameters:
  ///   - weights: What to multiply by.
  ///   - second: Another weight of the same shape and layout, multiplied by at the same time.
  ///   - targets: Where the caller will write what it makes of the product.
  init(
    kernel: MatrixKernel<S.Wide>, bench: Workbench, weights: WeightView<S>,
    second: WeightView<S>? = nil, targets: [ProductTarget<S>]
  ) {
    self.kernel = kernel
    self.bench = bench
    self.targets = targets
    first = Factor(
      weights: weights, addresses: .weightAddresses, packed: .packedWeights,
      packedAddresses: .packedWeightAddresses, sums: .sums)
    self.second = second.map {
      Factor(
        weights: $0, addresses: .secondWeightAddresses, packed: .secondPackedWeights,
        packedAddresses: .secondPackedWeightAddresses, sums: .secondSums)
    }
  }

  private var weights: WeightView<S> { first.weights }

  /// Features whose weights stay in the cache while all rows pass.
  private var featuresAtOnce: Int { max(64, featureUnit) }
  /// The fewest features that are whole tiles and whole cache lines.
  private var featureUnit: Int {
    let lines = stride(from: 32, through: 32 * kernel.rows, by: 32)
    return lines.first { $0 % kernel.rows == 0 } ?? kernel.rows
  }
  /// Panels of weights that are packed together, to read whole cache lines; more for a few rows, whose
  /// products take no longer than reading the weights.
  private static func panelsAtOnce(rows: Int) -> Int { rows > 96 ? 2 : 4 }

  /// Calls `finish` with each block of the product. The addresses are padded to tiles.
  func multiply(_ rows: RowAddresses, finish: (SumBlock<S.Wide>) -> Void) {
    guard rows.count > 0 else { return }
    if weights.inputsRunAlongMemory {
      multiplyByStoredWeights(rows, finish)
    } else {
      multiplyByPackedWeights(rows, finish)
    }
  }

  /// The kernel's rows are those of the weights, where they are, and its columns are the rows: what comes
  /// out is transposed.
  private func multiplyByStoredWeights(
    _ rows: RowAddresses, _ finish: (SumBlock<S.Wide>) -> Void
  ) {
    let depth = weights.inputs
    let ranges = (0..<rows.count).parts(most: kernel.columns, unit: kernel.lanes)
    let panels = kernel.panels(fromColumns: rows, ranges, depth: depth, on: bench)
    let outputs = first.outputAddresses(kernel, bench)
    let secondOutputs = second?.outputAddresses(kernel, bench)
    // No arrays in the loops: an array's count is atomic, and waits for all that was streamed before.
    let sums = first.sums(featuresAtOnce * kernel.columns, bench)
    let secondSums = second?.sums(featuresAtOnce * kernel.columns, bench)
    var lookahead = kernel.lookahead(
      rows: featuresAtOnce, columns: kernel.columns, depth: depth,
      products: second == nil ? 1 : 2, on: bench)
    for features in (0..<weights.outputs).parts(most: featuresAtOnce, unit: featureUnit) {
      let left = first.readable(outputs[features], kernel, bench)
      let secondLeft = secondOutputs.flatMap { second?.readable($0[features], kernel, bench) }
      let next = features.upperBound..<min(features.upperBound + features.count, weights.outputs)
      for (index, range) in ranges.enumerated() {
        let panel = panels[index]
        lookahead.clear()
        for target in targets { target.ask(&lookahead, rows: range, columns: features) }
        let nextPart = next.part(index, of: ranges.count)
        first.ask(&lookahead, for: outputs[nextPart])
        if let secondOutputs { second?.ask(&lookahead, for: secondOutputs[nextPart]) }
        kernel.multiply(left, by: panel, depth: depth, into: sums, lookahead: &lookahead)
        if let secondLeft, let secondSums {
          kernel.multiply(
            secondLeft, by: panel, depth: depth, into: secondSums, lookahead: &lookahead)
        }
        finish(
          SumBlock(
            rows: range, columns: features, sums: sums, secondSums: secondSums,
            stride: panel.columns, columnsRunAlongRows: false, kernel: kernel))
      }
    }
  }

  /// The kernel's rows are the rows, and its columns those of the weights, packed a block of depths at a
  /// time.
  private func multiplyByPackedWeights(
    _ rows: RowAddresses, _ finish: (SumBlock<S.Wide>) -> Void
  ) {
    let left = kernel.readable(
      rows, depth: weights.inputs, on: bench, for: .packedRows, addresses: .packedRowAddresses)
    let depths = first.inputAddresses(bench)
    let secondDepths = second?.inputAddresses(bench)
    for strip in (0..<weights.outputs).chunks(
      of: Self.panelsAtOnce(rows: rows.count) * kernel.columns)
    {
      let stride = strip.count.roundedUp(to: kernel.lanes)
      let count = rows.count.roundedUp(to: kernel.rows) * stride
      let sums = first.sums(count, bench)
      multiply(left, byPackedStrip: strip, of: depths, into: sums)
      let secondSums = second?.sums(count, bench)
      if let secondDepths, let secondSums {
        multiply(left, byPackedStrip: strip, of: secondDepths, into: secondSums)
      }
      finish(
        SumBlock(
          rows: 0..<rows.count, columns: strip, sums: sums, secondSums: secondSums,
          stride: stride, columnsRunAlongRows: true, kernel: kernel))
    }
  }

  /// All sums of a strip of columns. Meanwhile the next block of weights is asked for, and where the
  /// caller will write.
  private func multiply(
    _ rows: RowAddresses, byPackedStrip strip: Range<Int>, of depths: RowAddresses,
    into sums: Elements<S.Wide>
  ) {
    let blocks = kernel.depthBlocks(of: depths.count)
    if blocks.isEmpty { sums.fill(0) }
    let nextStrip = strip.upperBound..<min(strip.upperBound + strip.count, weights.outputs)
    for (index, block) in blocks.enumerated() {
      let values = kernel.values(of: block, depth: depths.count)
      let panels = kernel.panels(fromDepths: depths[values], columns: strip, on: bench)
      let isLast = index + 1 == blocks.count
      let next = kernel.values(of: blocks[isLast ? 0 : index + 1], depth: depths.count)
      var lookahead = kernel.lookahead(
        rows: rows.count, columns: strip.count, depth: values.count, on: bench)
      if isLast {
        for target in targets {
          target.ask(&lookahead, rows: 0..<rows.count, columns: strip)
        }
      }
      lookahead.ask(for: depths[next], bytes: S.bytes(isLast ? nextStrip : strip))
      kernel.multiply(
        rows, words: block, by: panels, from: 0, into: sums, lookahead: &lookahead)
    }
  }
}

extension RowsProduct {
  /// One of the weights, and the pieces of the workbench that its products take.
  private struct Factor {
    let weights: WeightView<S>
    let addresses: Workbench.Purpose
    let packed: Workbench.Purpose
    let packedAddresses: Workbench.Purpose
    let sums: Workbench.Purpose

    /// The outputs, whose inputs run along memory; padded to tiles.
    func outputAddresses(_ kernel: MatrixKernel<S.Wide>, _ bench: Workbench) -> RowAddresses {
      unsafe RowAddresses(
        count: weights.outputs, tileRows: kernel.rows, on: bench, for: addresses
      ) { unsafe weights.address(ofOutput: $0) }
    }

    /// Some of the outputs as the kernel reads them.
    func readable(
      _ outputs: RowAddresses, _ kernel: MatrixKernel<S.Wide>, _ bench: Workbench
    ) -> RowAddresses {
      kernel.readable(
        outputs, depth: weights.inputs, on: bench, for: packed, addresses: packedAddresses)
    }

    /// Asks for the weights of some outputs.
    func ask(_ lookahead: inout Lookahead, for outputs: RowAddresses) {
      lookahead.ask(for: outputs, bytes: S.bytes(0..<weights.inputs), isForeseen: true)
    }

    /// The inputs, whose outputs run along memory.
    func inputAddresses(_ bench: Workbench) -> RowAddresses {
      unsafe RowAddresses(count: weights.inputs, on: bench, for: addresses) {
        unsafe weights.address(ofInput: $0)
      }
    }

    /// Memory for so many sums.
    func sums(_ count: Int, _ bench: Workbench) -> Elements<S.Wide> {
      bench.elements(S.Wide.self, for: sums, count: count)
    }
  }
}
