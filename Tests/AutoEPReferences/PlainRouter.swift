import AutoEPCore

/// A router of one token in f64, written with sorts over whole rows.
package struct PlainRouter {
  package let configuration: RouteConfiguration
  package var selectionBias: [Double]?

  /// Makes a router, with the selection bias of each expert, `[E]`, if it has one.
  package init(configuration: RouteConfiguration, selectionBias: [Double]? = nil) {
    self.configuration = configuration
    self.selectionBias = selectionBias
  }

  /// The experts chosen for a row of logits; `balanced` replaces the scores for the choice.
  package func experts(_ logits: [Double], balanced: [Double]? = nil) -> [Int] {
    var choice = balanced ?? choiceScores(logits)
    if let selectionBias { choice = zip(choice, selectionBias).map { $0 + $1 } }
    if configuration.groupScore != .none { choice = maskedToBestGroups(choice) }
    return Array(fallingOrder(choice).prefix(configuration.topK))
  }

  /// The weights of the given experts, with derivatives.
  package func weights(_ logits: [Dual], experts: [Int]) -> [Dual] {
    var weights = unscaledWeights(logits, experts)
    if let epsilon = configuration.normalizeEpsilon {
      let sum = weights.reduce(Dual(epsilon), +)
      weights = weights.map { $0 / sum }
    }
    return weights.map { configuration.scale * $0 }
  }

  private func choiceScores(_ logits: [Double]) -> [Double] {
    switch configuration.score {
    case .softmax: softmax(logits.map { Dual($0) }).map(\.value)
    case .sigmoid: logits.map { Dual($0).sigmoid.value }
    case .topkSoftmax, .sinkhorn: logits
    }
  }

  private func unscaledWeights(_ logits: [Dual], _ experts: [Int]) -> [Dual] {
    let usesSigmoid =
      configuration.score == .sigmoid
      || configuration.score == .sinkhorn && configuration.topK == 1
    if usesSigmoid { return experts.map { logits[$0].sigmoid } }
    if configuration.score == .topkSoftmax { return softmax(experts.map { logits[$0] }) }
    let scores = softmax(logits)
    return experts.map { scores[$0] }
  }

  private func maskedToBestGroups(_ choice: [Double]) -> [Double] {
    let size = choice.count / configuration.numGroups
    let groupScores = (0..<configuration.numGroups).map { group in
      let best = choice[group * size..<(group + 1) * size].sorted(by: >)
      return best.prefix(configuration.groupScore == .max ? 1 : 2).reduce(0, +)
    }
    let kept = Set(fallingOrder(groupScores).prefix(configuration.topkGroups))
    return choice.indices.map { kept.contains($0 / size) ? choice[$0] : -.infinity }
  }
}

/// The indices in descending order of value; of equal values, the lower index first.
private func fallingOrder(_ values: [Double]) -> [Int] {
  values.indices.sorted { values[$0] != values[$1] ? values[$0] > values[$1] : $0 < $1 }
}

/// Softmax without subtracting the maximum: references only get moderate logits, and -inf.
private func softmax(_ logits: [Dual]) -> [Dual] {
  let exponentials = logits.map { $0.value == -.infinity ? Dual(0) : $0.exp }
  let sum = exponentials.reduce(Dual(0), +)
  return exponentials.map { $0 / sum }
}

/// Mean over tokens of logsumexp(logits)².
package func plainZLoss(_ logits: [Dual], numExperts: Int) -> Dual {
  let numTokens = logits.count / numExperts
  let squares = (0..<numTokens).map { token in
    let row = logits[token * numExperts..<(token + 1) * numExperts]
    let logSum = row.map(\.exp).reduce(Dual(0), +).log
    return logSum * logSum
  }
  return squares.reduce(Dual(0), +) / Dual(Double(numTokens))
}

/// The noise of an element: SplitMix64 of its index, seeded.
package func plainNoise(_ index: Int, epsilon: Double, seed: UInt64) -> Double {
  var z = seed &+ (UInt64(index) &+ 1) &* 0x9E37_79B9_7F4A_7C15
  z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
  z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
  let uniform = Double((z ^ (z >> 31)) >> 11) * 0x1p-53
  return 1 - epsilon + 2 * epsilon * uniform
}

/// Megatron's Sinkhorn with a fixed number of passes.
package func plainSinkhorn(_ logits: [[Double]], iterations: Int) -> [[Double]] {
  let costs = logits.map { $0.map { Dual($0).exp.value } }
  let (tokens, experts) = (Double(costs.count), Double(costs[0].count))
  var tokenFactors = costs.map { _ in 1.0 }
  var expertFactors = costs[0].map { _ in 1.0 }
  for _ in 0..<iterations {
    tokenFactors = costs.map { row in
      1 / tokens / (zip(row, expertFactors).map { $0 * $1 }.reduce(0, +) + 1e-8)
    }
    expertFactors = costs[0].indices.map { expert in
      1 / experts / (zip(costs, tokenFactors).map { $0[expert] * $1 }.reduce(0, +) + 1e-8)
    }
  }
  return zip(costs, tokenFactors).map { row, tokenFactor in
    zip(row, expertFactors).map { $0 * $1 * tokenFactor }
  }
}
