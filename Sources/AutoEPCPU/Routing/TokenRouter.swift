import AutoEPCore

/// Routes tokens one after another, with memory for one row.
struct TokenRouter<R: Real> {
  private let scorer: RouterScorer<R>
  private var choice: ExpertChoice<R>
  private let choosesByLogits: Bool
  private let selectionBias: [R]?
  private let normalizeEpsilon: R?
  private let scale: R

  /// The scores of all experts, and the values that experts are chosen by if they differ from the scores.
  private let scores: Elements<R>
  private let choiceScores: Elements<R>

  /// - Parameter memory: 2 E numbers, borrowed for the router's lifetime.
  init(
    _ configuration: RouteConfiguration, numExperts: Int, selectionBias: [R]?, memory: Elements<R>
  ) {
    scorer = RouterScorer(configuration)
    choice = ExpertChoice(configuration, numExperts: numExperts)
    choosesByLogits = configuration.score == .sinkhorn
    self.selectionBias = selectionBias
    normalizeEpsilon = configuration.normalizeEpsilon.map { R($0) }
    scale = R(configuration.scale)
    scores = memory[0..<numExperts]
    choiceScores = memory[numExperts..<2 * numExperts]
  }

  /// Writes the experts chosen for a row of logits and their weights, in descending order of score.
  ///
  /// - Parameter balanced: Sinkhorn's values, which replace the scores for the choice; nil for none.
  mutating func route<S: Scalar>(
    _ logits: Elements<S>, balanced: ArraySlice<R>?, experts: Elements<Int32>,
    weights: Elements<R>
  ) where S.Wide == R {
    logits.widen(into: scores)
    scorer.score(scores)
    if choosesByLogits || selectionBias != nil {
      setChoiceScores(logits, balanced)
      choice.choose(from: choiceScores, into: experts)
    } else {
      choice.choose(from: scores, into: experts)
    }
    scorer.weigh(scores, of: experts, into: weights)
    finish(weights)
  }

  private func setChoiceScores<S: Scalar>(
    _ logits: Elements<S>, _ balanced: ArraySlice<R>?
  ) where S.Wide == R {
    if let balanced {
      for (expert, score) in balanced.enumerated() { choiceScores[expert] = score }
    } else if choosesByLogits {
      logits.widen(into: choiceScores)
    } else {
      choiceScores.copy(scores)
    }
    guard let selectionBias else { return }
    for expert in selectionBias.indices { choiceScores[expert] += selectionBias[expert] }
  }

  private func finish(_ weights: Elements<R>) {
    if let normalizeEpsilon {
      let sum = weights.sum() + normalizeEpsilon
      for k in 0..<weights.count { weights[k] /= sum }
    }
    for k in 0..<weights.count { weights[k] *= scale }
  }
}
