import AutoEPCore

/// The gradient of the weights of all groups: for each group, Σ over its rows of gradOut[r] ⊗ rows[r].
struct WeightGradient<S: RowScalar> {
  private let target: GradientTarget
  private let kernel: MatrixKernel<S.Wide>
  private let left: IndexedRows<S>
  private let right: IndexedRows<S>

  /// One group's gradient has `features` rows and `width` columns.
  var features: Int { left.width }
  var width: Int { right.width }

  init(
    _ kernel: MatrixKernel<S.Wide>, _ layout: WeightLayout, gradOut: IndexedRows<S>,
    rows: IndexedRows<S>, into target: GradientTarget
  ) {
    self.target = target
    self.kernel = kernel
    // For [in, out], the outer product's operands are swapped.
    (left, right) = layout == .outIn ? (gradOut, rows) : (rows, gradOut)
  }

  /// Computes the item's features of its group's gradient.
  func run(_ item: WorkItem, on bench: Workbench) {
    let first = item.group * left.width
    let product = OuterProduct<S>(kernel: kernel, bench: bench)
    let rows = left.addresses(item.rows, on: bench, for: .rowAddresses)
    let columns = right.addresses(item.rows, on: bench, for: .secondRowAddresses)
    if target.isRounded(to: S.self) {
      let out = IndexedRows(Elements<S>(target.tensor), width: right.width).targets(
        first..<first + left.width, on: bench, for: .targetAddresses)
      product.multiply(rows, features: item.features, by: columns, width: right.width, into: out) {
        kernel.store($0.sums, stride: $0.stride, into: out[$0.features], columns: $0.columns)
      }
    } else {
      product.multiply(rows, features: item.features, by: columns, width: right.width, into: nil) {
        for (index, feature) in $0.features.enumerated() {
          target.store(
            $0.sums[index * $0.stride..<index * $0.stride + $0.columns.count], row: first + feature,
            columns: $0.columns, as: S.self)
        }
      }
    }
  }
}
