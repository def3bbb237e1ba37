import AutoEPCore

/// The gradient of the weights of all groups: of each, Σ over its rows of gradOut[r] ⊗ rows[r].
struct WeightGradient<S: RowScalar> {
  private let kernel: MatrixKernel<S.Wide>
  private let left: IndexedRows<S>
  private let right: IndexedRows<S>
  private let out: IndexedRows<S>

  /// The rows and columns of one group's gradient.
  var features: Int { left.width }
  var width: Int { right.width }

  init(
    _ kernel: MatrixKernel<S.Wide>, _ layout: WeightLayout, gradOut: IndexedRows<S>,
    rows: IndexedRows<S>, into tensor: TensorView
  ) {
    self.kernel = kernel
    // The gradient of [in, out] is the outer product the other way round.
    (left, right) = layout == .outIn ? (gradOut, rows) : (rows, gradOut)
    out = IndexedRows(Elements(tensor), width: right.width)
  }

  /// Makes the item's features of its group's gradient.
  func run(_ item: WorkItem, on bench: Workbench) {
    let features = item.group * left.width..<(item.group + 1) * left.width
    OuterProduct<S>(kernel: kernel, bench: bench).multiply(
      left.addresses(item.rows, on: bench, for: .rowAddresses), features: item.features,
      by: right.addresses(item.rows, on: bench, for: .secondRowAddresses), width: right.width,
      into: out.targets(features, on: bench, for: .targetAddresses))
  }
}
