import AutoEPCore

/// The experts forward on the rows of one item: both products and the activation, while the rows are in
/// the cache.
struct ExpertsForward<S: RowScalar> {
  private let configuration: ExpertsConfiguration
  private let kernel: MatrixKernel<S.Wide>
  private let gateUp: GateUpWeights<S>
  private let gateUpBias: HiddenRows<S>?
  private let down: WeightMatrices<S>
  private let downBias: Elements<S>?
  private let rows: IndexedRows<S>
  private let hidden: HiddenRows<S>
  private let results: IndexedRows<S>

  init(
    _ configuration: ExpertsConfiguration, _ kernels: KernelSet, _ weights: ExpertsWeights,
    rows: OrderedRows, hidden: TensorView, results: OrderedRows
  ) {
    self.configuration = configuration
    kernel = S.kernel(of: kernels)
    gateUp = GateUpWeights(weights.gateUp, configuration)
    gateUpBias = weights.gateUpBias.map { HiddenRows($0, gate: configuration.gate) }
    down = WeightMatrices(weights.down, layout: configuration.weightLayout)
    downBias = weights.downBias.map { Elements($0) }
    self.rows = IndexedRows(rows)
    self.hidden = HiddenRows(hidden, gate: configuration.gate)
    self.results = IndexedRows(results)
  }

  /// Makes the item's rows of `hidden` and of `results`.
  func run(_ item: WorkItem, on bench: Workbench) {
    let activated = IndexedRows(
      bench.elements(
        S.self, for: .activated, count: item.rows.count * configuration.ffnSize),
      width: configuration.ffnSize)
    activate(item, into: activated, on: bench)
    let bias = downBias?.row(item.group, width: configuration.hiddenSize)
    RowsProduct(kernel: kernel, bench: bench, weights: down[item.group]).multiply(
      activated.addresses(
        0..<item.rows.count, tileRows: kernel.rows, on: bench, for: .rowAddresses)
    ) { $0.store(into: results, firstRow: item.rows.lowerBound, bias: bias) }
  }

  private func activate(
    _ item: WorkItem, into activated: IndexedRows<S>, on bench: Workbench
  ) {
    let activation = GatedActivation<S.Wide>(configuration)
    gateUp.product(of: item.group, kernel, bench).multiply(
      rows.addresses(item.rows, tileRows: kernel.rows, on: bench, for: .rowAddresses)
    ) { sums in
      let columns = gateUp.gates(of: sums.columns)
      let block = HiddenBlock<S.Wide>(
        count: sums.rows.count * columns.count, gate: configuration.gate, on: bench)
      gateUp.part(sums, into: block)
      if let gateUpBias { block.add(gateUpBias, of: item.group, columns: columns) }
      for (index, row) in sums.rows.enumerated() {
        let (gate, up) = block.row(index, width: columns.count)
        hidden.store(item.rows.lowerBound + row, columns: columns, gate: gate, up: up)
      }
      activation.apply(block)
      for (index, row) in sums.rows.enumerated() {
        activated[row][columns].store(block.gate.row(index, width: columns.count))
      }
    }
  }
}
