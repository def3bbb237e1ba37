import AutoEPCore

/// Routes one token after another, with the memory of one row.
struct TokenRouter<R: Real> {
  private let scorer: RouterScorer<R>
  private var choice: ExpertChoice<R>
  private let selectionBias: [R]?
  private let normalizeEpsilon: R?
  private let scale: R

  private var scores: [R]
  private var choiceScores: [R]

  init(_ configuration: RouteConfiguration, numExperts: Int, selectionBias: [R]?) {
    scorer = RouterScorer(configuration)
    choice = ExpertChoice(configuration, numExperts: numExperts)
    self.selectionBias = selectionBias
    normalizeEpsilon = configuration.normalizeEpsilon.map { R($0) }
    scale = R(configuration.scale)
    scores = []
    choiceScores = []
  }

  /// Chooses experts for a row of logits and gives their weights, in order of falling score.
  ///
  /// - Parameter balanced: replaces the scores for the choice, where Sinkhorn made them.
  mutating func route(
    _ logits: [R], balanced: ArraySlice<R>?
  ) -> (experts: [Int], weights: [R]) {
    scorer.score(logits, into: &scores)
    choiceScores = balanced.map { Array($0) } ?? scorer.choiceScores(logits, scores)
    if let selectionBias {
      for expert in selectionBias.indices { choiceScores[expert] += selectionBias[expert] }
    }
    let experts = choice.choose(from: choiceScores)
    return (experts, weights(of: experts))
  }

  private func weights(of experts: [Int]) -> [R] {
    var weights = scorer.weights(scores, of: experts)
    if let normalizeEpsilon {
      let sum = weights.reduce(0, +) + normalizeEpsilon
      for k in weights.indices { weights[k] /= sum }
    }
    for k in weights.indices { weights[k] *= scale }
    return weights
  }
}
