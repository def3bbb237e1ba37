import AutoEPCore

/// A router of one token in f64, written with sorts over whole rows.
struct ReferenceRouter {
  let configuration: RouteConfiguration
  var selectionBias: [Double]? = nil

  /// The experts of a row of logits; `balanced` replaces the scores for the choice.
  func experts(_ logits: [Double], balanced: [Double]? = nil) -> [Int] {
    var choice = balanced ?? choiceScores(logits)
    if let selectionBias { choice = zip(choice, selectionBias).map { $0 + $1 } }
    if configuration.groupScore != .none { choice = maskedToBestGroups(choice) }
    return Array(fallingOrder(choice).prefix(configuration.topK))
  }

  /// The weights of given experts, as numbers that carry a derivative.
  func weights(_ logits: [Dual], experts: [Int]) -> [Dual] {
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

/// Indices by falling value, the lower first of equals.
private func fallingOrder(_ values: [Double]) -> [Int] {
  values.indices.sorted { values[$0] != values[$1] ? values[$0] > values[$1] : $0 < $1 }
}

/// Softmax without any shift: references get moderate logits, and -inf.
func softmax(_ logits: [Dual]) -> [Dual] {
  let exponentials = logits.map { $0.value == -.infinity ? Dual(0) : $0.exp }
  let sum = exponentials.reduce(Dual(0), +)
  return exponentials.map { $0 / sum }
}

/// Megatron's Sinkhorn with a fixed number of passes.
func referenceSinkhorn(_ logits: [[Double]], iterations: Int) -> [[Double]] {
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
