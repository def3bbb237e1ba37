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
    of group: Int, _ kernel: MatrixKernel<S.Wide>, _ bench: Workbench
  ) -> RowsProduct<S> {
    let weights = matrices[group]
    guard gate == .concatenated else {
      return RowsProduct(kernel: kernel, bench: bench, weights: weights)
    }
    let ffnSize = weights.outputs / 2
    return RowsProduct(
      kernel: kernel, bench: bench, weights: weights[0..<ffnSize],
      second: weights[ffnSize..<2 * ffnSize])
  }

  /// The gates among some columns of the product.
  func gates(of columns: Range<Int>) -> Range<Int> {
    gate == .interleaved ? columns.lowerBound / 2..<columns.upperBound / 2 : columns
  }

  /// Parts sums into gates and ups.
  func part(_ sums: SumBlock<S.Wide>, into block: HiddenBlock<S.Wide>) {
    let width = gates(of: sums.columns).count
    for index in 0..<sums.rows.count {
      let (gates, ups) = block.row(index, width: width)
      let row = sums.row(index)
      if gate == .interleaved {
        for column in 0..<width {
          gates[column] = row[2 * column]
          ups[column] = row[2 * column + 1]
        }
      } else {
        gates.copy(row)
        if let second = sums.secondRow(index) { ups.copy(second) }
      }
    }
  }
}
