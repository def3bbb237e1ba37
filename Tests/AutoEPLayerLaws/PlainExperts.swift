import AutoEPCore
import AutoEPReferences

/// The experts of a rank as plain loops in f64.
struct PlainExperts {
  let configuration: ExpertsConfiguration
  /// Rows of each expert.
  let counts: [Int]
  let weights: Weights

  /// The experts' parameters or their gradients; missing biases are empty.
  struct Weights {
    var gateUp: [Double]
    var gateUpBias: [Double]
    var down: [Double]
    var downBias: [Double]
  }

  /// What a backward computes.
  struct Gradients {
    var hidden: [Double]
    var activated: [Double]
    var dots: [Double]
    var inputs: [Double]
    var weights: Weights
  }

  private var layout: WeightLayout { configuration.weightLayout }
  private var gateUp: PlainProducts {
    PlainProducts(
      counts: counts, inSize: configuration.hiddenSize, outSize: configuration.gateUpSize)
  }
  private var down: PlainProducts {
    PlainProducts(counts: counts, inSize: configuration.ffnSize, outSize: configuration.hiddenSize)
  }
  private var back: (down: PlainProducts, gateUp: PlainProducts) {
    (
      PlainProducts(
        counts: counts, inSize: configuration.hiddenSize, outSize: configuration.ffnSize),
      PlainProducts(
        counts: counts, inSize: configuration.gateUpSize, outSize: configuration.hiddenSize)
    )
  }

  /// Computes the pre-activation of rows `[R,H]`.
  func hidden(_ rows: [Double]) -> [Double] {
    gateUp.product(rows, weights.gateUp, layout, bias: given(weights.gateUpBias))
  }

  /// Computes the results from the pre-activation.
  func results(hidden: [Double]) -> [Double] {
    down.product(
      PlainActivation(configuration: configuration)(hidden), weights.down, layout,
      bias: given(weights.downBias))
  }

  /// Computes all gradients from that of the results, given the weight of each row.
  func gradients(
    _ gradRows: [Double], rows: [Double], hidden: [Double], rowWeights: [Double]
  ) -> Gradients {
    let activation = PlainActivation(configuration: configuration)
    let (width, ffnSize) = (configuration.gateUpSize, configuration.ffnSize)
    let gradActivated = back.down.product(gradRows, weights.down, layout.transposed)
    let activated = activation(hidden)
    let gradHidden = scaled(
      activation.gradient(hidden, gradActivated), by: rowWeights, width: width)
    let weighted = scaled(activated, by: rowWeights, width: ffnSize)
    var dots = plainDots(gradActivated, activated, width: ffnSize)
    for (row, dot) in biasDots(gradRows).enumerated() { dots[row] += dot }
    return Gradients(
      hidden: gradHidden, activated: weighted, dots: dots,
      inputs: back.gateUp.product(gradHidden, weights.gateUp, layout.transposed),
      weights: weightGradients(gradRows, rows, gradHidden, weighted, rowWeights))
  }

  private func weightGradients(
    _ gradRows: [Double], _ rows: [Double], _ gradHidden: [Double], _ weighted: [Double],
    _ rowWeights: [Double]
  ) -> Weights {
    Weights(
      gateUp: gateUp.weightGradient(gradHidden, rows, layout),
      gateUpBias: weights.gateUpBias.isEmpty
        ? [] : PlainProducts.rowSums(gradHidden, counts, width: configuration.gateUpSize),
      down: down.weightGradient(gradRows, weighted, layout),
      downBias: weights.downBias.isEmpty
        ? []
        : PlainProducts.rowSums(
          gradRows, counts, width: configuration.hiddenSize, weights: rowWeights))
  }

  /// ⟨gradRows[r], the bias of r's expert⟩.
  private func biasDots(_ gradRows: [Double]) -> [Double] {
    guard !weights.downBias.isEmpty else { return [] }
    let width = configuration.hiddenSize
    let biases = down.groupOfRow.flatMap { group in
      weights.downBias[group * width..<(group + 1) * width]
    }
    return plainDots(gradRows, biases, width: width)
  }

  private func given(_ bias: [Double]) -> [Double]? { bias.isEmpty ? nil : bias }
}

/// Multiplies each row by its weight.
func scaled(_ rows: [Double], by weights: [Double], width: Int) -> [Double] {
  rows.indices.map { rows[$0] * weights[$0 / width] }
}
