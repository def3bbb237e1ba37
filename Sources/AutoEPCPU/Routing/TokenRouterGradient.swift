import AutoEPCore

/// Computes the gradient of the logits from that of one token's weights, with memory for one row.
struct TokenRouterGradient<R: Real> {
  private let kind: RouterScorer<R>.Kind
  private let normalizeEpsilon: R?
  private let scale: R
  private let topK: Int
  private let numExperts: Int

  /// The scores of all experts, the weights of the chosen ones, and the gradients of these weights.
  private let row: Elements<R>
  private let weights: Elements<R>
  private let gradient: Elements<R>

  /// - Parameter memory: E + 2 K numbers, borrowed for this value's lifetime.
  init(_ configuration: RouteConfiguration, numExperts: Int, memory: Elements<R>) {
    kind = RouterScorer<R>(configuration).kind
    normalizeEpsilon = configuration.normalizeEpsilon.map { R($0) }
    scale = R(configuration.scale)
    topK = configuration.topK
    self.numExperts = numExperts
    row = memory[0..<numExperts]
    weights = memory[numExperts..<numExperts + topK]
    gradient = memory[numExperts + topK..<numExperts + 2 * topK]
  }

  /// Writes the gradient of a row of logits for the chosen experts.
  func differentiate<S: Scalar>(
    _ logits: Elements<S>, experts: ArraySlice<Int>, gradWeights: ArraySlice<R>,
    into gradLogits: Elements<S>
  ) where S.Wide == R {
    for (k, given) in gradWeights.enumerated() { gradient[k] = given * scale }
    logits.widen(into: row)
    setWeights(of: experts)
    if let normalizeEpsilon { throughNormalisation(epsilon: normalizeEpsilon) }
    throughScores(of: experts)
    gradLogits.store(row)
  }

  /// Recomputes the weights before normalization; for a softmax, `row` becomes the scores of all experts.
  private func setWeights(of experts: ArraySlice<Int>) {
    if kind == .softmax { softmax(row) }
    for (k, expert) in experts.enumerated() { weights[k] = row[expert] }
    switch kind {
    case .softmax: break
    case .sigmoid: weights.setSigmoid(weights) { $0 }
    case .softmaxOfChosen: softmax(weights)
    }
  }

  /// Replaces the gradient of w = u / (Σu + ε) by that of u.
  private func throughNormalisation(epsilon: R) {
    let sum = weights.sum() + epsilon
    let mean = gradientTimesWeights() / sum
    for k in 0..<topK { gradient[k] = (gradient[k] - mean) / sum }
  }

  /// Replaces `row` by the gradient of the logits, from that of the unnormalized weights.
  private func throughScores(of experts: ArraySlice<Int>) {
    let mean = kind == .sigmoid ? 0 : gradientTimesWeights()
    switch kind {
    case .softmax:
      for expert in 0..<numExperts { row[expert] *= -mean }
      for (k, expert) in experts.enumerated() { row[expert] += weights[k] * gradient[k] }
    case .sigmoid:
      // σ(x) σ(-x), because 1 - σ(x) loses small values.
      for (k, expert) in experts.enumerated() {
        gradient[k] *= weights[k] * R.sigmoid(-row[expert])
      }
      row.fill(0)
      for (k, expert) in experts.enumerated() { row[expert] += gradient[k] }
    case .softmaxOfChosen:
      row.fill(0)
      for (k, expert) in experts.enumerated() { row[expert] += weights[k] * (gradient[k] - mean) }
    }
  }

  private func gradientTimesWeights() -> R {
    (0..<topK).reduce(0) { $0 + gradient[$1] * weights[$1] }
  }
}
