/// Rows times the weights of one expert, in blocks that the caller finishes while they are in the cache.
///
/// Sums over the inputs in order, in blocks of one fixed depth: the bits of a result depend only on its row's values,
/// the weights and the kernel.
struct RowsProduct<S: RowScalar> {
  private let kernel: MatrixKernel<S.Wide>
  private let bench: Workbench
  private let first: Factor
  private let second: Factor?
  private let targets: [ProductTarget<S>]

  /// - Parameters:
  ///   - weights: The weights of the expert.
  ///   - second: Further weights of the same shape and layout, multiplied at the same time.
  ///   - targets: The memory where the caller will write the results, for prefetching.
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

  /// The features whose weights stay in the cache while all rows pass.
  private var featuresAtOnce: Int { max(64, featureUnit) }
  /// The smallest number of features that fills whole tiles and whole cache lines.
  private var featureUnit: Int {
    let lines = stride(from: 32, through: 32 * kernel.rows, by: 32)
    return lines.first { $0 % kernel.rows == 0 } ?? kernel.rows
  }
  /// The panels of weights that are packed together, to read whole cache lines; more for few rows, whose
  /// products take no longer than reading the weights.
  private static func panelsAtOnce(rows: Int) -> Int { rows > 96 ? 2 : 4 }

  /// Calls `finish` with each block of the product. The addresses are padded to whole tiles.
  func multiply(_ rows: RowAddresses, finish: (SumBlock<S.Wide>) -> Void) {
    guard rows.count > 0 else { return }
    if weights.inputsRunAlongMemory {
      multiplyByStoredWeights(rows, finish)
    } else {
      multiplyByPackedWeights(rows, finish)
    }
  }

  /// Uses the stored weights as the kernel's left operand and the packed rows as its right one, so the result is
  /// transposed.
  private func multiplyByStoredWeights(
    _ rows: RowAddresses, _ finish: (SumBlock<S.Wide>) -> Void
  ) {
    let depth = weights.inputs
    let ranges = (0..<rows.count).parts(most: kernel.columns, unit: kernel.lanes)
    let panels = kernel.panels(fromColumns: rows, ranges, depth: depth, on: bench)
    let outputs = first.outputAddresses(kernel, bench)
    let secondOutputs = second?.outputAddresses(kernel, bench)
    // No arrays in the loops: their atomic reference counts wait for all preceding streaming stores.
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

  /// Uses the rows as the kernel's left operand and the weights, packed one depth block at a time, as its right
  /// one.
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

  /// Computes all sums of a strip of columns, and prefetches the next block of weights and the caller's target rows.
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
  /// One of the weights, and the workbench memory that its products use.
  private struct Factor {
    let weights: WeightView<S>
    let addresses: Workbench.Purpose
    let packed: Workbench.Purpose
    let packedAddresses: Workbench.Purpose
    let sums: Workbench.Purpose

    /// The addresses of the outputs, whose inputs are contiguous; padded to whole tiles.
    func outputAddresses(_ kernel: MatrixKernel<S.Wide>, _ bench: Workbench) -> RowAddresses {
      unsafe RowAddresses(
        count: weights.outputs, tileRows: kernel.rows, on: bench, for: addresses
      ) { unsafe weights.address(ofOutput: $0) }
    }

    /// A range of the outputs in a form that the kernel can read.
    func readable(
      _ outputs: RowAddresses, _ kernel: MatrixKernel<S.Wide>, _ bench: Workbench
    ) -> RowAddresses {
      kernel.readable(
        outputs, depth: weights.inputs, on: bench, for: packed, addresses: packedAddresses)
    }

    /// Queues the weights of some outputs for prefetching.
    func ask(_ lookahead: inout Lookahead, for outputs: RowAddresses) {
      lookahead.ask(for: outputs, bytes: S.bytes(0..<weights.inputs), isForeseen: true)
    }

    /// The addresses of the inputs, whose outputs are contiguous.
    func inputAddresses(_ bench: Workbench) -> RowAddresses {
      unsafe RowAddresses(count: weights.inputs, on: bench, for: addresses) {
        unsafe weights.address(ofInput: $0)
      }
    }

    /// Allocates `count` sums.
    func sums(_ count: Int, _ bench: Workbench) -> Elements<S.Wide> {
      bench.elements(S.Wide.self, for: sums, count: count)
    }
  }
}
