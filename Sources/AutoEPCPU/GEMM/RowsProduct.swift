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

  /// Features whose weights stay in the cache while all rows pass.
  private static var features: Int { 64 }
  /// Panels of weights that are packed together, to read whole cache lines.
  private static var panelsAtOnce: Int { 4 }

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
    let panels = kernel.panels(ranges, depth: weights.inputs, on: bench, for: .panels)
    for (range, panel) in zip(ranges, panels) {
      kernel.packColumns(rows[range], depth: weights.inputs, into: panel)
    }
    for features in (0..<weights.outputs).parts(most: Self.features, unit: kernel.rows) {
      let left = weightRows(weights, features, .weights, .weightAddresses)
      let secondLeft = second.map {
        weightRows($0, features, .secondWeights, .secondWeightAddresses)
      }
      for (range, panel) in zip(ranges, panels) {
        finish(
          SumBlock(
            rows: range, columns: features, stride: features.count.roundedUp(to: kernel.sumLanes),
            sums: transposedProduct(left, panel, .transposedSums),
            second: secondLeft.map { transposedProduct($0, panel, .secondTransposedSums) }))
      }
    }
  }

  /// The kernel's rows are the rows, and its columns those of the weights, packed.
  private func multiplyByPackedWeights(
    _ rows: RowAddresses, _ finish: (SumBlock<S.Wide>) -> Void
  ) {
    let left = kernel.readable(
      rows, depth: weights.inputs, on: bench, for: .packedRows, addresses: .packedRowAddresses)
    let depths = inputAddresses(weights, .weightAddresses)
    let secondDepths = second.map { inputAddresses($0, .secondWeightAddresses) }
    for strip in (0..<weights.outputs).chunks(of: Self.panelsAtOnce * kernel.columns) {
      let panels = kernel.panels(fromDepths: depths, columns: strip, on: bench, for: .panels)
      let secondPanels = secondDepths.map {
        kernel.panels(fromDepths: $0, columns: strip, on: bench, for: .secondPanels)
      }
      let next = strip.upperBound..<min(strip.upperBound + strip.count, weights.outputs)
      var prefetch = prefetch(depths, next, panels: panels.count, rows: rows.count)
      var secondPrefetch = secondDepths.flatMap {
        self.prefetch($0, next, panels: panels.count, rows: rows.count)
      }
      for (index, (columns, panel)) in panels.enumerated() {
        finish(
          SumBlock(
            rows: 0..<rows.count, columns: columns, stride: panel.columns,
            sums: product(left, panel, .sums, &prefetch),
            second: secondPanels.map {
              product(left, $0[index].panel, .secondSums, &secondPrefetch)
            }))
      }
    }
  }

  /// The weights of the next strip, while the products of this one are made.
  private func prefetch(
    _ depths: RowAddresses, _ columns: Range<Int>, panels: Int, rows: Int
  ) -> Prefetch? {
    guard !columns.isEmpty, depths.count > 0 else { return nil }
    return Prefetch(
      depths, bytes: S.bytes(columns), forWriting: false,
      steps: panels * kernel.tileCount(rows: rows, depth: depths.count))
  }

  private func weightRows(
    _ weights: WeightView<S>, _ features: Range<Int>, _ purpose: Workbench.Purpose,
    _ addresses: Workbench.Purpose
  ) -> RowAddresses {
    let stored = unsafe RowAddresses(
      count: features.count, tileRows: kernel.rows, on: bench, for: addresses
    ) { unsafe weights.address(ofOutput: features.lowerBound + $0) }
    return kernel.readable(
      stored, depth: weights.inputs, on: bench, for: purpose, addresses: addresses)
  }

  private func inputAddresses(
    _ weights: WeightView<S>, _ purpose: Workbench.Purpose
  ) -> RowAddresses {
    unsafe RowAddresses(count: weights.inputs, on: bench, for: purpose) {
      unsafe weights.address(ofInput: $0)
    }
  }

  private func transposedProduct(
    _ features: RowAddresses, _ panel: Panel, _ purpose: Workbench.Purpose
  ) -> Elements<S.Wide> {
    let sums = sums(features.count.roundedUp(to: kernel.rows) * panel.columns, .sums)
    var prefetch: Prefetch?
    kernel.multiply(
      features, by: panel, depth: weights.inputs, into: sums, prefetch: &prefetch)
    let stride = features.count.roundedUp(to: kernel.sumLanes)
    let result = self.sums(panel.columns * stride, purpose)
    unsafe kernel.packing.transpose(
      sums.pointer, panel.columns, features.count, panel.columns, result.pointer, stride)
    return result
  }

  private func product(
    _ rows: RowAddresses, _ panel: Panel, _ purpose: Workbench.Purpose,
    _ prefetch: inout Prefetch?
  ) -> Elements<S.Wide> {
    let sums = sums(rows.count.roundedUp(to: kernel.rows) * panel.columns, purpose)
    kernel.multiply(
      rows, by: panel, depth: weights.inputs, into: sums, prefetch: &prefetch)
    return sums
  }

  private func sums(_ count: Int, _ purpose: Workbench.Purpose) -> Elements<S.Wide> {
    bench.elements(S.Wide.self, for: purpose, count: count)
  }
}
