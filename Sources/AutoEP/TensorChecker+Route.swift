import AutoEPCore
import AutoEPSystem
import CAutoEP

extension TensorChecker {
  /// Checks a router for the experts that "E" is bound to; binds "K".
  mutating func route(_ config: autoep_route_config) throws(EngineError) -> RouteConfiguration {
    let experts = try positive(size("E"), "E of logits")
    let score = try enumValue(
      config.score, "config.score", RouteConfiguration.Score.self,
      "AUTOEP_SCORE_SOFTMAX (1), _TOPK_SOFTMAX (2), _SIGMOID (3), _SINKHORN (4)")
    guard (1...experts).contains(Int(config.top_k)) else {
      throw error("config.top_k", "is \(config.top_k); expected 1 to the \(experts) experts")
    }
    var route = RouteConfiguration(score: score, topK: Int(config.top_k))
    bind("K", route.topK, from: "config.top_k")
    // A zeroed struct has scale 0, which would set all weights to 0.
    guard config.scale.isFinite, config.scale != 0 else {
      throw error("config.scale", "is \(config.scale); expected a finite number other than 0")
    }
    route.scale = config.scale
    try setNormalization(of: &route, config)
    try setGroups(of: &route, config, experts: experts)
    try setSinkhorn(of: &route, config)
    return route
  }

  private func setNormalization(
    of route: inout RouteConfiguration, _ config: autoep_route_config
  ) throws(EngineError) {
    guard try flag(config.normalize, "config.normalize") else { return }
    let epsilon = config.normalize_epsilon
    guard epsilon >= 0, epsilon.isFinite else {
      throw error("config.normalize_epsilon", "is \(epsilon); expected a finite number from 0 up")
    }
    route.normalizeEpsilon = epsilon
  }

  private func setGroups(
    of route: inout RouteConfiguration, _ config: autoep_route_config, experts: Int
  ) throws(EngineError) {
    route.groupScore = try enumValue(
      config.group_score, "config.group_score", RouteConfiguration.GroupScore.self,
      "AUTOEP_GROUP_NONE (0), _MAX (1), _TOP2_SUM (2)")
    if route.groupScore == .none { return }
    guard route.score == .softmax || route.score == .sigmoid else {
      throw error(
        "config.group_score",
        "is given with score \(config.score); groups go with"
          + " AUTOEP_SCORE_SOFTMAX and _SIGMOID only", .unsupported)
    }
    let groups = Int(config.num_groups)
    guard groups > 0, experts % groups == 0 else {
      throw error("config.num_groups", "is \(groups); expected a divisor of the \(experts) experts")
    }
    guard (1...groups).contains(Int(config.topk_groups)) else {
      throw error("config.topk_groups", "is \(config.topk_groups); expected 1 to \(groups) groups")
    }
    route.numGroups = groups
    route.topkGroups = Int(config.topk_groups)
    let reachable = route.topkGroups * (experts / groups)
    guard route.topK <= reachable else {
      throw error(
        "config.top_k",
        "is \(route.topK), but \(route.topkGroups) groups hold only \(reachable)"
          + " experts; use more groups or a smaller top_k")
    }
  }

  private func setSinkhorn(
    of route: inout RouteConfiguration, _ config: autoep_route_config
  ) throws(EngineError) {
    guard route.score == .sinkhorn, config.training != 0 else { return }
    guard (1...3).contains(config.sinkhorn_iterations) else {
      throw error(
        "config.sinkhorn_iterations", "is \(config.sinkhorn_iterations); expected 1 to 3")
    }
    route.sinkhornIterations = Int(config.sinkhorn_iterations)
  }
}
