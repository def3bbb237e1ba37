import AutoEPCore
import AutoEPSystem

extension RouteConfiguration {
  /// Throws unless K experts can be chosen.
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

/// Throws for the first token whose logits cannot be routed.
func checkLogits<S: Scalar>(_ logits: Elements<S>, numExperts: Int) throws(EngineError) {
  for token in 0..<logits.count / numExperts {
    let row = logits.row(token, width: numExperts)
    if !row.allBelowInfinity() { try refuse(row, of: token) }
    guard row.hasFinite() else {
      throw EngineError(
        .invalidArgument, "token \(token) has no finite logit: all \(numExperts) are -inf")
    }
  }
}

private func refuse<S: Scalar>(_ row: Elements<S>, of token: Int) throws(EngineError) {
  for expert in 0..<row.count where !(row[expert].wide < .infinity) {
    throw EngineError(
      .invalidArgument,
      "the logit of token \(token) for expert \(expert) is \(row[expert].wide); expected a finite"
        + " number or -inf")
  }
}

extension Elements where Element: Scalar {
  // Without early exits, so that the loops vectorize.

  /// Whether no value is NaN or +inf.
  fileprivate func allBelowInfinity() -> Bool {
    var below: Int32 = 0
    for index in 0..<count { below &+= self[index].wide < .infinity ? 1 : 0 }
    return Int(below) == count
  }

  /// Whether any value is above -inf.
  fileprivate func hasFinite() -> Bool {
    var finite: Int32 = 0
    for index in 0..<count { finite &+= self[index].wide > -.infinity ? 1 : 0 }
    return finite > 0
  }
}

/// The selection bias in the router's type; throws for NaN.
func checkedBias<R: Real>(_ bias: TensorView?, _: R.Type) throws(EngineError) -> [R]? {
  guard let values = bias?.reals(R.self) else { return nil }
  if let expert = values.firstIndex(where: \.isNaN) {
    throw EngineError(.invalidArgument, "the selection bias of expert \(expert) is NaN")
  }
  return values
}
