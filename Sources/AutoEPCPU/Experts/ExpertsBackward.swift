import AutoEPCore

/// The experts' backward. Each step runs over the items of all experts.
struct ExpertsBackward<S: RowScalar> {
  private let configuration: ExpertsConfiguration
  private let kernel: MatrixKernel<S.Wide>
  /// The weights, in the forward's orientation.
  let gateUp: WeightMatrices<S>
  let down: WeightMatrices<S>
  private let hidden: HiddenRows<S>
  /// [R,G]
  private let gradHidden: HiddenRows<S>
  /// [R,F]
  private let activated: IndexedRows<S>
  /// The memory of `gradHidden` as rows.
  let gradHiddenRows: IndexedRows<S>
  /// The gradient of the outputs, before the rows' weights multiply.
  let gradRows: IndexedRows<S>
  /// The gradient of the inputs.
  private let gradInputs: IndexedRows<S>
  /// The weight of each row; nil for ones.
  private let rowWeights: IndexedRows<S.Wide>?
  /// The parts of the gradient of each row's weight; nil if not wanted.
  let dots: IndexedRows<S.Wide>?

  init(_ experts: ExpertsCall, _ call: ExpertsGradient, _ kernels: KernelSet) {
    configuration = experts.configuration
    kernel = S.kernel(of: kernels)
    gateUp = WeightMatrices(experts.weights.gateUp, layout: configuration.weightLayout)
    down = WeightMatrices(experts.weights.down, layout: configuration.weightLayout)
    hidden = HiddenRows(call.hidden, gate: configuration.gate)
    gradHidden = HiddenRows(call.gradHidden, gate: configuration.gate)
    activated = IndexedRows(ExpertRows(call.activated))
    gradHiddenRows = IndexedRows(ExpertRows(call.gradHidden))
    gradRows = IndexedRows(call.gradRows)
    gradInputs = IndexedRows(call.gradInputs)
    rowWeights = call.rowWeights.map { IndexedRows($0) }
    dots = call.dots.map { IndexedRows($0) }
  }

  /// Computes the gradient of the pre-activation from that of the outputs; recomputes the activation.
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
      weigh(block, rows: item.rows.lowerBound + sums.rows.lowerBound, columns.lowerBound)
      block.store(
        into: gradients[sums.rows], columns: columns, ffnSize: configuration.ffnSize, by: kernel)
      kernel.store(
        block.scratch, stride: block.stride, into: activated[sums.rows], columns: columns)
    }
  }

  /// Stores the dots of a block whose rows start at `first`, then multiplies by the rows' weights.
  private func weigh(_ block: HiddenBlock<S.Wide>, rows first: Int, _ firstColumn: Int) {
    for index in 0..<block.rowCount {
      if let dots { block.storeDots(index, into: dots[first + index], firstColumn: firstColumn) }
      if let rowWeights { block.weigh(index, by: rowWeights[first + index][0]) }
    }
  }

  /// Computes the gradient of the inputs from that of the pre-activation.
  func multiplyByGateUp(_ item: WorkItem, on bench: Workbench) {
    let target = ProductTarget<S>(
      rows: gradInputs.targets(item.rows, on: bench, for: .targetAddresses),
      firstColumn: item.features.lowerBound)
    RowsProduct(
      kernel: kernel, bench: bench, weights: gateUp.transposed[item.group][item.features],
      targets: [target]
    ).multiply(
      gradHiddenRows.addresses(item.rows, tileRows: kernel.rows, on: bench, for: .rowAddresses)
    ) { $0.store(into: target, bias: nil) }
  }
}
