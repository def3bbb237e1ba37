import AutoEPCore

/// The weights of gate and up, and the columns of their products.
struct GateUpWeights<S: RowScalar> {
  let matrices: WeightMatrices<S>
  private let gate: ExpertsConfiguration.Gate

  init(_ tensor: TensorView, _ configuration: ExpertsConfiguration) {
    matrices = WeightMatrices(tensor, layout: configuration.weightLayout)
    gate = configuration.gate
  }

  /// Multiplies rows by a group's weights; every block has gates and their ups.
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

  /// The gates among a range of the product's columns.
  func gates(of columns: Range<Int>) -> Range<Int> {
    gate == .interleaved ? columns.lowerBound / 2..<columns.upperBound / 2 : columns
  }
}
