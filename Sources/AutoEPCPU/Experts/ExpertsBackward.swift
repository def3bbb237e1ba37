import AutoEPCore

/// The experts backward, in steps that each take the items of all experts.
struct ExpertsBackward<S: RowScalar> {
  private let configuration: ExpertsConfiguration
  private let kernel: MatrixKernel<S.Wide>
  /// The weights as they were in the forward.
  let gateUp: WeightMatrices<S>
  let down: WeightMatrices<S>
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
    hidden: TensorView, gradRows: OrderedRows, gradHidden: TensorView, activated: TensorView
  ) {
    self.configuration = configuration
    kernel = S.kernel(of: kernels)
    gateUp = WeightMatrices(weights.gateUp, layout: configuration.weightLayout)
    down = WeightMatrices(weights.down, layout: configuration.weightLayout)
    self.hidden = HiddenRows(hidden, gate: configuration.gate)
    self.gradHidden = HiddenRows(gradHidden, gate: configuration.gate)
    self.activated = IndexedRows(OrderedRows(activated))
    gradHiddenRows = IndexedRows(OrderedRows(gradHidden))
    self.gradRows = IndexedRows(gradRows)
  }

  /// From the gradient of the results to that of the pre-activation; the activation is made again.
  func differentiateActivation(_ item: WorkItem, on bench: Workbench) {
    let activation = GatedActivation<S.Wide>(configuration)
    let firstColumn = item.features.lowerBound
    let gradients = gradHiddenRows.targets(item.rows, on: bench, for: .targetAddresses)
    let activated = activated.targets(item.rows, on: bench, for: .secondTargetAddresses)
    let targets =
      gradHidden.targets(of: gradients, firstColumn: firstColumn) + [
        ProductTarget(rows: activated, firstColumn: firstColumn)
      ]
    RowsProduct(
      kernel: kernel, bench: bench, weights: down.transposed[item.group][item.features],
      targets: targets
    ).multiply(
      gradRows.addresses(item.rows, tileRows: kernel.rows, on: bench, for: .rowAddresses)
    ) { sums in
      let columns = firstColumn + sums.columns.lowerBound..<firstColumn + sums.columns.upperBound
      let block = HiddenBlock<S.Wide>(
        rows: sums.rows.count, width: columns.count, gate: configuration.gate, on: bench)
      sums.copy(sums.sums, into: block.gradOut, stride: block.stride)
      for (index, row) in sums.rows.enumerated() {
        let (gate, up) = block.row(index)
        hidden.load(item.rows.lowerBound + row, columns: columns, gate: gate, up: up)
      }
      activation.differentiate(block)
      block.store(
        into: gradients[sums.rows], columns: columns, ffnSize: configuration.ffnSize, by: kernel)
      kernel.store(
        block.gradOut, stride: block.stride, into: activated[sums.rows], columns: columns)
    }
  }

  /// The gradient of down's weights.
  func downGradient(into tensor: TensorView) -> WeightGradient<S> {
    WeightGradient(
      kernel, configuration.weightLayout, gradOut: gradRows, rows: activated, into: tensor)
  }

  /// From the gradient of the pre-activation to that of the rows.
  func multiplyByGateUp(_ item: WorkItem, on bench: Workbench) {
    let target = ProductTarget<S>(
      rows: gradRows.targets(item.rows, on: bench, for: .targetAddresses),
      firstColumn: item.features.lowerBound)
    RowsProduct(
      kernel: kernel, bench: bench, weights: gateUp.transposed[item.group][item.features],
      targets: [target]
    ).multiply(
      gradHiddenRows.addresses(item.rows, tileRows: kernel.rows, on: bench, for: .rowAddresses)
    ) { $0.store(into: target, bias: nil) }
  }
}
