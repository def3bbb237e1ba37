import AutoEPCore

/// A layer, the tokens of all ranks, and their topk_idx.
struct DispatchCase: Sendable {
  let name: String
  let configuration: ExpertsConfiguration
  let hasBias: Bool
  /// The expert of each slot; -1 for none.
  let choice: [Int]
  let x: [Double]
  let gradY: [Double]
  /// The weight of each slot; NaN for a slot without an expert.
  let topkWeights: [Double]
  let weights: PlainExperts.Weights

  var numTokens: Int { choice.count / configuration.topK }
  var sort: PlainSort { PlainSort(choice, numExperts: configuration.numExperts) }

  init(
    _ name: String, _ configuration: ExpertsConfiguration, hasBias: Bool, choice: [Int],
    _ random: inout LawRandom
  ) {
    let (e, h, f) = (configuration.numExperts, configuration.hiddenSize, configuration.ffnSize)
    let (g, dtype) = (configuration.gateUpSize, configuration.dtype)
    let tokens = choice.count / configuration.topK
    func draw(_ count: Int, _ dtype: DataType) -> [Double] {
      random.values(count).map { dtype.rounded($0) }
    }
    (self.name, self.configuration) = (name, configuration)
    (self.hasBias, self.choice) = (hasBias, choice)
    x = draw(tokens * h, dtype)
    gradY = draw(tokens * h, dtype)
    topkWeights = zip(draw(choice.count, dtype.sumType), choice).map { $1 < 0 ? .nan : $0 }
    weights = PlainExperts.Weights(
      gateUp: draw(e * g * h, dtype), gateUpBias: hasBias ? draw(e * g, dtype) : [],
      down: draw(e * h * f, dtype), downBias: hasBias ? draw(e * h, dtype) : [])
  }

  /// The ranks that have an expert of a token.
  func ranks(of token: Int, of size: Int) -> [Int] {
    let chosen = choice[token * configuration.topK..<(token + 1) * configuration.topK]
    return (0..<size).filter { rank in
      let experts = expertRange(
        numExperts: configuration.numExperts, numRanks: size, rank: rank)
      return chosen.contains { experts.contains($0) }
    }
  }

  /// The tokens of each rank: an uneven split, with none on the last rank but one if there are three ranks or more.
  func split(over ranks: Int) -> [Range<Int>] {
    var counts = (0..<ranks).map {
      $0 == ranks - 2 && ranks > 2 ? 0 : (numTokens * ($0 + 1)) / (2 * ranks)
    }
    counts[ranks - 1] = numTokens - counts.dropLast().reduce(0, +)
    var first = 0
    return counts.map { count in
      defer { first += count }
      return first..<first + count
    }
  }
}

extension DispatchCase {
  /// Uneven tokens and experts, ranks without tokens or experts, slots without an expert, all slots on one expert.
  static func all(_ dtype: DataType) -> [DispatchCase] {
    var random = LawRandom(31)
    return shapes.enumerated().map { index, shape in
      var configuration = ExpertsConfiguration(
        numExperts: shape.experts, topK: shape.topK, hiddenSize: 12, ffnSize: 10, dtype: dtype)
      configuration.applyWeights = shape.applyWeights
      configuration.weightLayout = index % 2 == 0 ? .outIn : .inOut
      if index % 3 == 1 { configuration.gate = .interleaved }
      let choice = (0..<shape.tokens * shape.topK).map { shape.choose($0, &random) }
      return DispatchCase(
        "\(shape.name), weights \(shape.applyWeights)", configuration, hasBias: index % 2 == 1,
        choice: choice, &random)
    }
  }

  /// A case with all of it: E not divisible by 2 to 4, slots without an expert.
  static func usual(_ dtype: DataType) -> DispatchCase { all(dtype)[4] }

  private struct Shape: Sendable {
    let name: String
    let tokens: Int
    let experts: Int
    let topK: Int
    var applyWeights = ExpertsConfiguration.ApplyWeights.after
    let choose: @Sendable (Int, inout LawRandom) -> Int
  }

  private static let shapes = [
    Shape(name: "E = 8", tokens: 23, experts: 8, topK: 2) { $1.below(8) },
    Shape(name: "E = 5", tokens: 17, experts: 5, topK: 2) { $1.below(5) },
    Shape(name: "E = 5", tokens: 17, experts: 5, topK: 2, applyWeights: .before) { $1.below(5) },
    Shape(name: "E = 1, ranks without experts", tokens: 9, experts: 1, topK: 1) { _, _ in 0 },
    Shape(name: "E = 7, slots without an expert", tokens: 19, experts: 7, topK: 3) { slot, random in
      slot / 3 == 4 || random.below(3) == 0 ? -1 : random.below(7)
    },
    Shape(
      name: "E = 7, slots without an expert", tokens: 19, experts: 7, topK: 3, applyWeights: .before
    ) { slot, random in slot / 3 == 4 || random.below(3) == 0 ? -1 : random.below(7) },
    Shape(name: "all slots on one expert", tokens: 12, experts: 6, topK: 2) { _, _ in 4 },
    Shape(name: "no slot has an expert", tokens: 6, experts: 4, topK: 2) { _, _ in -1 },
    Shape(name: "K = E", tokens: 11, experts: 3, topK: 3) { slot, _ in slot % 3 },
    Shape(name: "no tokens", tokens: 0, experts: 4, topK: 2) { _, _ in 0 },
  ]
}
