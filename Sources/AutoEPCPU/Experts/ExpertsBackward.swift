import AutoEPCore

/// The experts backward, in steps that each take the items of all experts.
struct ExpertsBackward<S: RowScalar> {
  private let configuration: ExpertsConfiguration
  private let kernel: MatrixKernel<S.Wide>
  private let gateUp: WeightMatrices<S>
  private let down: WeightMatrices<S>
  private let rows: IndexedRows<S>
  private let hidden: HiddenRows<S>
  /// [R,G]
  private let gradHidden: HiddenRows<S>
  /// [R,F]
  private let activated: IndexedRows<S>
  /// The same memory as `gradHidden`.
  let gradHiddenRows: IndexedRows<S>
  /// The gradient of the results, and after the last step that of the rows.
  let gradRows: IndexedRows<S>

  init(
    _ configuration: ExpertsConfiguration, _ kernels: KernelSet, _ weights: ExpertsWeights,
    rows: OrderedRows, hidden: TensorView, gradRows: OrderedRows, gradHidden: TensorView,
    activated: TensorView
  ) {
    self.configuration = configuration
    kernel = S.kernel(of: kernels)
    gateUp = WeightMatrices(weights.gateUp, layout: configuration.weightLayout)
    down = WeightMatrices(weights.down, layout: configuration.weightLayout)
    self.rows = IndexedRows(rows)
    self.hidden = HiddenRows(hidden, gate: configuration.gate)
    self.gradHidden = HiddenRows(gradHidden, gate: configuration.gate)
    self.activated = IndexedRows(OrderedRows(activated))
    gradHiddenRows = IndexedRows(OrderedRows(gradHidden))
    self.gradRows = IndexedRows(gradRows)
  }

  /// From the gradient of the results to that of the pre-activation; the activation is made again.
  func differentiateActivation(_ item: WorkItem, on bench: Workbench) {
    let activation = GatedActivation<S.Wide>(configuration)
    RowsProduct(kernel: kernel, bench: bench, weights: down.transposed[item.group]).multiply(
      gradRows.addresses(item.rows, tileRows: kernel.rows, on: bench, for: .rowAddresses)
    ) { sums in
      let (columns, width) = (sums.columns, sums.columns.count)
      let block = HiddenBlock<S.Wide>(
        count: sums.rows.count * width, gate: configuration.gate, on: bench)
      for (index, row) in sums.rows.enumerated() {
        let (gate, up) = block.row(index, width: width)
        hidden.load(item.rows.lowerBound + row, columns: columns, gate: gate, up: up)
        block.gradOut.row(index, width: width).copy(sums.row(index))
      }
      activation.differentiate(block)
      for (index, row) in sums.rows.enumerated() {
        let (gate, up) = block.row(index, width: width)
        gradHidden.store(item.rows.lowerBound + row, columns: columns, gate: gate, up: up)
        activated[item.rows.lowerBound + row][columns].store(
          block.gradOut.row(index, width: width))
      }
    }
  }

  /// The gradient of gate and up's weights.
  func gateUpGradient(_ item: WorkItem, into gradients: Elements<S>, on bench: Workbench) {
    weightGradient(item, gradOut: gradHiddenRows, rows: rows, into: gradients, on: bench)
  }

  /// The gradient of down's weights.
  func downGradient(_ item: WorkItem, into gradients: Elements<S>, on bench: Workbench) {
    weightGradient(item, gradOut: gradRows, rows: activated, into: gradients, on: bench)
  }

  /// From the gradient of the pre-activation to that of the rows.
  func multiplyByGateUp(_ item: WorkItem, on bench: Workbench) {
    RowsProduct(kernel: kernel, bench: bench, weights: gateUp.transposed[item.group]).multiply(
      gradHiddenRows.addresses(item.rows, tileRows: kernel.rows, on: bench, for: .rowAddresses)
    ) { $0.store(into: gradRows, firstRow: item.rows.lowerBound, bias: nil) }
  }

  private func weightGradient(
    _ item: WorkItem, gradOut: IndexedRows<S>, rows: IndexedRows<S>, into gradients: Elements<S>,
    on bench: Workbench
  ) {
    // The gradient of [in, out] is the outer product the other way round.
    let (left, right) =
      configuration.weightLayout == .outIn ? (gradOut, rows) : (rows, gradOut)
    OuterProduct(kernel: kernel, bench: bench).multiply(
      left.addresses(item.rows, on: bench, for: .rowAddresses), features: item.features,
      by: right.addresses(item.rows, on: bench, for: .secondRowAddresses), width: right.width,
      into: gradients.row(item.group, width: left.width * right.width))
  }
}
