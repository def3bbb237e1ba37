import AutoEPCore

/// A case of the experts' laws.
struct ExpertsCase {
  let configuration: ExpertsConfiguration
  let hasBias: Bool
  let choice: [Int]

  var name: String {
    let c = configuration
    return "\(c.activation) \(c.gate) \(c.weightLayout), H \(c.hiddenSize), F \(c.ffnSize),"
      + " K \(c.topK), \(choice.count) slots, bias \(hasBias)"
  }

  /// All kinds of experts with few rows; and SwiGLU, with and without biases, around the tiles of 128 and 256 rows.
  static func all(_ run: BackendRun) -> [ExpertsCase] {
    let small = small(run.dtype, &run.random)
    return run.hasLargeSizes ? small + large(run) : small
  }

  /// Only the cases around the tiles.
  static func large(_ run: BackendRun) -> [ExpertsCase] { large(run.dtype, &run.random) }

  private static func small(_ dtype: DataType, _ random: inout LawRandom) -> [ExpertsCase] {
    let kinds: [(ExpertsConfiguration.Activation, ExpertsConfiguration.Gate, WeightLayout, Bool)] =
      [
        (.silu, .concatenated, .outIn, false), (.silu, .concatenated, .inOut, true),
        (.silu, .interleaved, .outIn, true), (.silu, .none, .inOut, false),
        (.gelu, .none, .outIn, true), (.gelu, .concatenated, .outIn, false),
        (.geluTanh, .interleaved, .inOut, false), (.reluSquared, .none, .outIn, false),
        (.clampedSwiGLU, .interleaved, .inOut, true), (.clampedSiLU, .concatenated, .outIn, false),
      ]
    return kinds.flatMap { activation, gate, layout, hasBias in
      [(5, 3), (24, 40)].map { hiddenSize, ffnSize in
        var configuration = ExpertsConfiguration(
          numExperts: 4, topK: 2, hiddenSize: hiddenSize, ffnSize: ffnSize, dtype: dtype)
        configuration.activation = activation
        configuration.gate = gate
        configuration.weightLayout = layout
        configuration.swigluAlpha = 1.702
        configuration.swigluLimit = 0.7
        // Expert 2 has no rows, and every sixth slot has no expert.
        let choice = (0..<22).map { $0 % 6 == 5 ? -1 : [0, 1, 3][random.below(3)] }
        return ExpertsCase(configuration: configuration, hasBias: hasBias, choice: choice)
      }
    }
  }

  private static func large(_ dtype: DataType, _ random: inout LawRandom) -> [ExpertsCase] {
    let sizes: [(Int, Int, Int, WeightLayout, Bool, [Int])] = [
      (264, 392, 2, .outIn, false, [127, 0, 129, 256]),
      (512, 264, 1, .inOut, false, [1, 255, 257, 128]),
      (392, 264, 2, .outIn, true, [130, 0, 0, 2]),
    ]
    return sizes.map { hiddenSize, ffnSize, topK, layout, hasBias, counts in
      var configuration = ExpertsConfiguration(
        numExperts: 4, topK: topK, hiddenSize: hiddenSize, ffnSize: ffnSize, dtype: dtype)
      configuration.weightLayout = layout
      let chosen = counts.enumerated().flatMap { Array(repeating: $0, count: $1) }
      let choice = (chosen + [-1, -1, -1, -1]).shuffled(using: &random)
      return ExpertsCase(configuration: configuration, hasBias: hasBias, choice: choice)
    }
  }
}
