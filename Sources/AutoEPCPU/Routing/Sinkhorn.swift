/// Balances a matrix of router logits over tokens and experts (S-BASE, arXiv:2202.01169) as Megatron and
/// GPT-NeoX do.
struct Sinkhorn<R: Real> {
  private let numTokens: Int
  private let numExperts: Int
  private let epsilon: R = 1e-8

  private var costs: [R]
  private var tokenFactors: [R]
  private var expertFactors: [R]

  /// - Parameter logits: `[T, E]`, each row with a finite value.
  init(logits: [R], numExperts: Int) {
    self.numExperts = numExperts
    numTokens = logits.count / numExperts
    costs = logits
    tokenFactors = Array(repeating: 1, count: numTokens)
    expertFactors = Array(repeating: 1, count: numExperts)
    exponentiate()
  }

  /// The balanced matrix `[T, E]`.
  mutating func balanced(iterations: Int) -> [R] {
    for _ in 0..<iterations {
      scaleTokens()
      scaleExperts()
    }
    return costs.indices.map { index in
      let (token, expert) = index.quotientAndRemainder(dividingBy: numExperts)
      return expertFactors[expert] * costs[index] * tokenFactors[token]
    }
  }

  /// Subtracts each row's maximum first to prevent overflow; the balancing cancels the constant factor.
  private mutating func exponentiate() {
    for token in 0..<numTokens {
      let row = token * numExperts..<(token + 1) * numExperts
      let largest = costs[row].reduce(-R.infinity) { Swift.max($0, $1) }
      for index in row { costs[index] = R.exp(costs[index] - largest) }
    }
  }

  private mutating func scaleTokens() {
    for token in 0..<numTokens {
      var sum: R = 0
      for expert in 0..<numExperts {
        sum += expertFactors[expert] * costs[token * numExperts + expert]
      }
      tokenFactors[token] = 1 / (R(numTokens) * (sum + epsilon))
    }
  }

  private mutating func scaleExperts() {
    var sums = [R](repeating: 0, count: numExperts)
    for token in 0..<numTokens {
      for expert in 0..<numExperts {
        sums[expert] += tokenFactors[token] * costs[token * numExperts + expert]
      }
    }
    for expert in 0..<numExperts {
      expertFactors[expert] = 1 / (R(numExperts) * (sums[expert] + epsilon))
    }
  }
}
