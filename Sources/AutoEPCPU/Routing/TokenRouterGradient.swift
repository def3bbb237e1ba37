import AutoEPCore

/// The gradient of one token's weights to its logits.
struct TokenRouterGradient<R: Real> {
  private let scorer: RouterScorer<R>
  private let normalizeEpsilon: R?
  private let scale: R
  private var scores: [R] = []

  init(_ configuration: RouteConfiguration) {
    scorer = RouterScorer(configuration)
    normalizeEpsilon = configuration.normalizeEpsilon.map { R($0) }
    scale = R(configuration.scale)
  }

  /// The gradient to a row of logits, for the experts that were chosen.
  mutating func gradient(
    logits: [R], experts: [Int], gradWeights: [R]
  ) -> [R] {
    scorer.score(logits, into: &scores)
    let weights = scorer.weights(scores, of: experts)
    var gradient = gradWeights.map { $0 * scale }
    if let normalizeEpsilon {
      throughNormalisation(&gradient, weights: weights, epsilon: normalizeEpsilon)
    }
    switch scorer.kind {
    case .softmax: return throughSoftmax(gradient, experts: experts, weights: weights)
    case .sigmoid: return throughSigmoid(gradient, experts: experts, logits: logits)
    case .softmaxOfChosen:
      return throughSoftmaxOfChosen(gradient, experts: experts, weights: weights)
    }
  }

  /// From w = u / (Σu + ε) to u.
  private func throughNormalisation(_ gradient: inout [R], weights: [R], epsilon: R) {
    let sum = weights.reduce(0, +) + epsilon
    let mean = dot(gradient, weights) / sum
    for k in gradient.indices { gradient[k] = (gradient[k] - mean) / sum }
  }

  private func throughSoftmax(_ gradient: [R], experts: [Int], weights: [R]) -> [R] {
    let mean = dot(gradient, weights)
    var result = scores.map { -$0 * mean }
    for (k, expert) in experts.enumerated() { result[expert] += scores[expert] * gradient[k] }
    return result
  }

  private func throughSigmoid(_ gradient: [R], experts: [Int], logits: [R]) -> [R] {
    var result = [R](repeating: 0, count: logits.count)
    for (k, expert) in experts.enumerated() {
      result[expert] += gradient[k] * scores[expert] * R.sigmoid(-logits[expert])
    }
    return result
  }

  private func throughSoftmaxOfChosen(_ gradient: [R], experts: [Int], weights: [R]) -> [R] {
    let mean = dot(gradient, weights)
    var result = [R](repeating: 0, count: scores.count)
    for (k, expert) in experts.enumerated() { result[expert] += weights[k] * (gradient[k] - mean) }
    return result
  }

  private func dot(_ a: [R], _ b: [R]) -> R {
    zip(a, b).reduce(0) { $0 + $1.0 * $1.1 }
  }
}
