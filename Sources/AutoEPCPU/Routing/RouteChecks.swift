import AutoEPCore

extension RouteConfiguration {
  /// Throws where no choice of K experts exists.
  func check(numExperts: Int) throws(EngineError) {
    guard topK >= 1, topK <= numExperts else {
      throw EngineError(
        .invalidArgument, "top_k is \(topK); expected 1 to the number of experts, \(numExperts)")
    }
    guard groupScore != .none else { return }
    guard numGroups >= 1, numExperts.isMultiple(of: numGroups) else {
      throw EngineError(
        .invalidArgument,
        "num_groups is \(numGroups); expected a divisor of the number of experts, \(numExperts)")
    }
    guard topkGroups >= 1, topkGroups <= numGroups else {
      throw EngineError(
        .invalidArgument, "topk_groups is \(topkGroups); expected 1 to num_groups, \(numGroups)")
    }
    let allowed = topkGroups * (numExperts / numGroups)
    guard topK <= allowed else {
      throw EngineError(
        .invalidArgument,
        "top_k is \(topK), but \(topkGroups) of \(numGroups) groups hold only \(allowed) experts")
    }
  }
}

/// The logits in the type that the router computes in; throws for the first that no choice can be
/// made from.
func checkedLogits<S: Scalar>(
  _ logits: Elements<S>, numExperts: Int
) throws(EngineError) -> [S.Wide] {
  let values = logits.widened()
  for token in 0..<values.count / numExperts {
    var hasFinite = false
    for expert in 0..<numExperts {
      let value = values[token * numExperts + expert]
      guard !value.isNaN, value < .infinity else {
        throw EngineError(
          .invalidArgument,
          "the logit of token \(token) for expert \(expert) is \(value); expected a finite number "
            + "or -inf")
      }
      hasFinite = hasFinite || value.isFinite
    }
    guard hasFinite else {
      throw EngineError(
        .invalidArgument, "token \(token) has no finite logit: all \(numExperts) are -inf")
    }
  }
  return values
}

/// The selection bias as the router reads it; throws for NaN.
func checkedBias<R: Real>(_ bias: TensorView?, _: R.Type) throws(EngineError) -> [R]? {
  guard let values = bias?.reals(R.self) else { return nil }
  if let expert = values.firstIndex(where: \.isNaN) {
    throw EngineError(.invalidArgument, "the selection bias of expert \(expert) is NaN")
  }
  return values
}
