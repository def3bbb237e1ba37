import AutoEPCore

/// The experts' forward on the rows of one item: both products and the activation while the rows are in the cache.
struct ExpertsForward<S: RowScalar> {
  private let configuration: ExpertsConfiguration
  private let kernel: MatrixKernel<S.Wide>
  private let gateUp: GateUpWeights<S>
  private let gateUpBias: HiddenRows<S>?
  private let down: WeightMatrices<S>
  private let downBias: Elements<S>?
  private let rows: IndexedRows<S>
  private let hidden: HiddenRows<S>
  /// The memory of `hidden` as rows.
  private let hiddenRows: IndexedRows<S>
  private let results: IndexedRows<S>

  init(
    _ experts: ExpertsCall, _ kernels: KernelSet, rows: ExpertRows, hidden: TensorView,
    results: ExpertRows
  ) {
    let (configuration, weights) = (experts.configuration, experts.weights)
    self.configuration = configuration
    kernel = S.kernel(of: kernels)
    gateUp = GateUpWeights(weights.gateUp, configuration)
    gateUpBias = weights.gateUpBias.map { HiddenRows($0, gate: configuration.gate) }
    down = WeightMatrices(weights.down, layout: configuration.weightLayout)
    downBias = weights.downBias.map { Elements($0) }
    self.rows = IndexedRows(rows)
    self.hidden = HiddenRows(hidden, gate: configuration.gate)
    hiddenRows = IndexedRows(ExpertRows(hidden))
    self.results = IndexedRows(results)
  }

  /// Computes the item's rows of `hidden` and `results`.
  func run(_ item: WorkItem, on bench: Workbench) {
    let memory = bench.elements(
      S.self, for: .activated, count: item.rows.count * configuration.ffnSize)
    let activated = IndexedRows(memory, width: configuration.ffnSize).addresses(
      0..<item.rows.count, tileRows: kernel.rows, on: bench, for: .secondRowAddresses)
    activate(item, into: activated, on: bench)
    let target = ProductTarget<S>(
      rows: results.targets(item.rows, on: bench, for: .targetAddresses), firstColumn: 0)
    let bias = downBias?.row(item.group, width: configuration.hiddenSize)
    RowsProduct(kernel: kernel, bench: bench, weights: down[item.group], targets: [target])
      .multiply(activated) { $0.store(into: target, bias: bias) }
  }

  private func activate(_ item: WorkItem, into activated: RowAddresses, on bench: Workbench) {
    let activation = GatedActivation<S.Wide>(configuration)
    let stored = hiddenRows.targets(item.rows, on: bench, for: .targetAddresses)
    gateUp.product(
      of: item.group, kernel, bench, targets: hidden.targets(of: stored, firstColumn: 0)
    ).multiply(
      rows.addresses(item.rows, tileRows: kernel.rows, on: bench, for: .rowAddresses)
    ) { sums in
      let columns = gateUp.gates(of: sums.columns)
      let block = HiddenBlock<S.Wide>(
        rows: sums.rows.count, width: columns.count, gate: configuration.gate, on: bench)
      block.take(sums)
      if let gateUpBias { block.add(gateUpBias, of: item.group, columns: columns) }
      block.store(
        into: stored[sums.rows], columns: columns, ffnSize: configuration.ffnSize, by: kernel)
      activation.apply(block)
      kernel.store(
        block.gate, stride: block.stride, into: activated[sums.rows], columns: columns)
    }
  }
}
