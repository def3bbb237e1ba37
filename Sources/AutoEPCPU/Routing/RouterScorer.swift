import AutoEPCore

/// Computes the score of each expert from a router's logits.
struct RouterScorer<R: Real> {
  /// How logits become scores.
  enum Kind {
    case softmax
    case sigmoid
    /// Scores are the logits; a softmax over the chosen experts follows.
    case softmaxOfChosen
  }

  let kind: Kind

  init(_ configuration: RouteConfiguration) {
    kind =
      switch configuration.score {
      case .softmax: .softmax
      case .sigmoid: .sigmoid
      case .topkSoftmax: .softmaxOfChosen
      case .sinkhorn: configuration.topK == 1 ? .sigmoid : .softmax
      }
  }

  /// Replaces a row of logits by the score of each expert.
  func score(_ row: Elements<R>) {
    switch kind {
    case .softmax: softmax(row)
    case .sigmoid: row.setSigmoid(row) { $0 }
    case .softmaxOfChosen: break
    }
  }

  /// Writes the unnormalized weights of the chosen experts.
  func weigh(_ scores: Elements<R>, of experts: Elements<Int32>, into weights: Elements<R>) {
    for k in 0..<experts.count { weights[k] = scores[Int(experts[k])] }
    if kind == .softmaxOfChosen { softmax(weights) }
  }
}

/// Replaces logits by their softmax.
func softmax<R: Real>(_ values: Elements<R>) {
  var largest = -R.infinity
  for index in 0..<values.count { largest = values[index] > largest ? values[index] : largest }
  for index in 0..<values.count { values[index] -= largest }
  R.exponentiate(values)
  let sum = values.sum()
  for index in 0..<values.count { values[index] /= sum }
}
