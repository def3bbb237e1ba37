import AutoEPCore

/// What a router's logits say about each expert.
struct RouterScorer<R: Real> {
  /// How logits become the values that weights are gathered from.
  enum Kind {
    case softmax
    case sigmoid
    /// Logits as they are; a softmax over the chosen follows.
    case softmaxOfChosen
  }

  let kind: Kind
  private let choosesByLogits: Bool

  init(_ configuration: RouteConfiguration) {
    kind =
      switch configuration.score {
      case .softmax: .softmax
      case .sigmoid: .sigmoid
      case .topkSoftmax: .softmaxOfChosen
      case .sinkhorn: configuration.topK == 1 ? .sigmoid : .softmax
      }
    choosesByLogits = configuration.score == .sinkhorn
  }

  /// The score of each expert.
  func score(_ logits: [R], into scores: inout [R]) {
    scores = logits
    switch kind {
    case .softmax: softmax(&scores)
    case .sigmoid: for expert in scores.indices { scores[expert] = R.sigmoid(scores[expert]) }
    case .softmaxOfChosen: break
    }
  }

  /// What experts are chosen by, before any bias.
  func choiceScores(_ logits: [R], _ scores: [R]) -> [R] { choosesByLogits ? logits : scores }

  /// The weights of the chosen experts, before normalisation.
  func weights(_ scores: [R], of experts: [Int]) -> [R] {
    var weights = experts.map { scores[$0] }
    if kind == .softmaxOfChosen { softmax(&weights) }
    return weights
  }
}

/// Replaces logits by their softmax.
func softmax<R: Real>(_ values: inout [R]) {
  let largest = values.reduce(-R.infinity) { Swift.max($0, $1) }
  var sum: R = 0
  for index in values.indices {
    values[index] = R.exp(values[index] - largest)
    sum += values[index]
  }
  for index in values.indices { values[index] /= sum }
}
