/// Rows times the weights of one expert, in blocks that the caller finishes while they are in the cache.
///
/// A sum runs over the inputs in blocks of one fixed depth, each in order: its bits depend on the values of
/// its row, on its weights and on the kernel alone.
struct RowsProduct<S: RowScalar> {
  let kernel: MatrixKernel<S.Wide>
  let bench: Workbench
  /// What to multiply by.
  let weights: WeightView<S>
  /// Another weight of the same shape and layout, multiplied by at the same time.
  var second: WeightView<S>?
  /// Where the caller will write what it makes of the product.
  let targets: [ProductTarget<S>]

  /// Features whose weights stay in the cache while all rows pass.
  private static var features: Int { 64 }
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
    let ranges = (0..<rows.count).parts(most: kernel.columns, unit: kernel.lanes)
    let panels = kernel.panels(ranges, depth: weights.inputs, on: bench)
    for (range, panel) in zip(ranges, panels) {
      kernel.packColumns(rows[range], depth: weights.inputs, into: panel)
    }
    let factors = factors.map { ($0, $0.outputAddresses(kernel, bench)) }
    for features in (0..<weights.outputs).parts(most: Self.features, unit: kernel.rows) {
      let left = factors.map { factor, outputs in
        kernel.readable(
          outputs[features], depth: weights.inputs, on: bench, for: factor.packed,
          addresses: factor.packedAddresses)
      }
      let next = features.upperBound..<min(features.upperBound + features.count, weights.outputs)
      for (index, range) in ranges.enumerated() {
        let nextWeights = factors.map { _, outputs in
          Lookahead.Request(
            rows: outputs[next.part(index, of: ranges.count)],
            bytes: S.bytes(0..<weights.inputs), isForeseen: true)
        }
        let places = targets.map { $0.request(rows: range, columns: features) }
        let sums = transposedSums(left, by: panels[index], ahead: places + nextWeights)
        finish(
          SumBlock(
            rows: range, columns: features, sums: sums, stride: panels[index].columns,
            columnsRunAlongRows: false, kernel: kernel))
      }
    }
  }

  /// The sums of some features of each of the weights with a panel of rows.
  private func transposedSums(
    _ features: [RowAddresses], by panel: Panel, ahead requests: [Lookahead.Request]
  ) -> [Elements<S.Wide>] {
    var lookahead = kernel.lookahead(
      rows: features[0].count, depth: weights.inputs, products: features.count, on: bench, requests)
    return zip(features, factors).map { features, factor in
      let sums = self.sums(features.count.roundedUp(to: kernel.rows) * panel.columns, factor.sums)
      kernel.multiply(
        features, by: panel, depth: weights.inputs, into: sums, lookahead: &lookahead)
      return sums
    }
  }

  /// The kernel's rows are the rows, and its columns those of the weights, packed a block of depths at a
  /// time.
  private func multiplyByPackedWeights(
    _ rows: RowAddresses, _ finish: (SumBlock<S.Wide>) -> Void
  ) {
    let left = kernel.readable(
      rows, depth: weights.inputs, on: bench, for: .packedRows, addresses: .packedRowAddresses)
    let factors = factors.map { ($0, $0.inputAddresses(bench)) }
    for strip in (0..<weights.outputs).chunks(
      of: Self.panelsAtOnce(rows: rows.count) * kernel.columns)
    {
      let stride = strip.count.roundedUp(to: kernel.lanes)
      let sums = factors.map { factor, depths in
        let sums = self.sums(rows.count.roundedUp(to: kernel.rows) * stride, factor.sums)
        multiply(left, byPackedStrip: strip, of: depths, into: sums, stride: stride)
        return sums
      }
      finish(
        SumBlock(
          rows: 0..<rows.count, columns: strip, sums: sums, stride: stride,
          columnsRunAlongRows: true, kernel: kernel))
    }
  }

  /// All sums of a strip of columns. Meanwhile the next block of weights is asked for, and where the
  /// caller will write.
  private func multiply(
    _ rows: RowAddresses, byPackedStrip strip: Range<Int>, of depths: RowAddresses,
    into sums: Elements<S.Wide>, stride: Int
  ) {
    let blocks = kernel.depthBlocks(of: depths.count)
    if blocks.isEmpty { sums.fill(0) }
    let nextStrip = strip.upperBound..<min(strip.upperBound + strip.count, weights.outputs)
    for (index, block) in blocks.enumerated() {
      let panels = kernel.panels(
        fromDepths: depths[kernel.values(of: block, depth: depths.count)], columns: strip,
        on: bench)
      let isLast = index + 1 == blocks.count
      let next = kernel.values(of: blocks[isLast ? 0 : index + 1], depth: depths.count)
      let nextWeights = Lookahead.Request(
        rows: depths[next], bytes: S.bytes(isLast ? nextStrip : strip))
      let places = targets.map { $0.request(rows: 0..<rows.count, columns: strip) }
      var lookahead = kernel.lookahead(
        rows: rows.count, depth: kernel.values(of: block, depth: depths.count).count,
        products: panels.count, on: bench, (isLast ? places : []) + [nextWeights])
      kernel.multiply(
        rows, words: block, by: panels, into: sums, stride: stride, lookahead: &lookahead)
    }
  }

  private func sums(_ count: Int, _ purpose: Workbench.Purpose) -> Elements<S.Wide> {
    bench.elements(S.Wide.self, for: purpose, count: count)
  }

  private var factors: [Factor] {
    let first = Factor(
      weights: weights, addresses: .weightAddresses, packed: .packedWeights,
      packedAddresses: .packedWeightAddresses, sums: .sums)
    guard let second else { return [first] }
    return [
      first,
      Factor(
        weights: second, addresses: .secondWeightAddresses, packed: .secondPackedWeights,
        packedAddresses: .secondPackedWeightAddresses, sums: .secondSums),
    ]
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

    /// The inputs, whose outputs run along memory.
    func inputAddresses(_ bench: Workbench) -> RowAddresses {
      unsafe RowAddresses(count: weights.inputs, on: bench, for: addresses) {
        unsafe weights.address(ofInput: $0)
      }
    }
  }
}
