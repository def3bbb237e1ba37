import AutoEPCore

/// The weights of gate and up, and where their products stand.
struct GateUpWeights<S: RowScalar> {
  let matrices: WeightMatrices<S>
  private let gate: ExpertsConfiguration.Gate

  init(_ tensor: TensorView, _ configuration: ExpertsConfiguration) {
    matrices = WeightMatrices(tensor, layout: configuration.weightLayout)
    gate = configuration.gate
  }

  /// Rows times a group's weights: gates beside their ups in every block.
  func product(
    of group: Int, _ kernel: MatrixKernel<S.Wide>, _ bench: Workbench,
    targets: [ProductTarget<S>]
  ) -> RowsProduct<S> {
    let weights = matrices[group]
    guard gate == .concatenated else {
      return RowsProduct(kernel: kernel, bench: bench, weights: weights, targets: targets)
    }
    let ffnSize = weights.outputs / 2
    return RowsProduct(
      kernel: kernel, bench: bench, weights: weights[0..<ffnSize],
      second: weights[ffnSize..<2 * ffnSize], targets: targets)
  }

  /// The gates among some columns of the product.
  func gates(of columns: Range<Int>) -> Range<Int> {
    gate == .interleaved ? columns.lowerBound / 2..<columns.upperBound / 2 : columns
  }
}
