import AutoEPCore
import AutoEPSystem

extension CPUBackend {
  /// logits = x · routerᵀ, as a grouped GEMM with one group.
  public func routerLogits(
    _ x: TensorView, router: TensorView, into logits: TensorView
  ) throws(EngineError) {
    guard x.dtype != .f16 else { throw Self.unsupported(x.dtype, by: "the router's product") }
    let weights = TensorView(router.storage, shape: [1] + router.shape, dtype: router.dtype)
    var rows = [Int64(x.shape[0])]
    try rows.withTensor { (rows) throws(EngineError) in
      try groupedGEMM(
        ExpertRows(x), weights: weights, layout: .outIn, bias: nil, groups: .counts(rows),
        into: ExpertRows(logits))
    }
  }

  /// Chooses K experts per token; the threads share the tokens.
  public func route(
    _ configuration: RouteConfiguration, logits: TensorView, selectionBias: TensorView?,
    topkIdx: TensorView, topkWeights: TensorView, tokensPerExpert: TensorView?
  ) throws(EngineError) {
    let numExperts = logits.shape[1]
    try configuration.check(numExperts: numExperts)
    let outputs = RouteOutputs(topkIdx: topkIdx, topkWeights: topkWeights)
    switch logits.dtype {
    case .f32: try route(configuration, Elements<Float>(logits), selectionBias, outputs)
    case .f64: try route(configuration, Elements<Double>(logits), selectionBias, outputs)
    case .bf16: try route(configuration, Elements<BFloat16>(logits), selectionBias, outputs)
    case .f16: try route(configuration, Elements<Float16>(logits), selectionBias, outputs)
    case .i32, .i64: throw Self.unsupported(logits.dtype, by: "route")
    }
    try tokensPerExpert?.store(
      integers: ExpertCounts(topkIdx.integers(), numExperts: numExperts).tokensPerExpert)
  }

  /// Computes the gradient of the logits; recomputes the scores.
  public func routeBackward(
    _ configuration: RouteConfiguration, logits: TensorView, topkIdx: TensorView,
    gradTopkWeights: TensorView, into gradLogits: TensorView
  ) throws(EngineError) {
    let experts = try topkIdx.integers()
    _ = try ExpertCounts(experts, numExperts: logits.shape[1])
    switch logits.dtype {
    case .f32:
      routeBackward(configuration, Elements<Float>(logits), experts, gradTopkWeights, gradLogits)
    case .f64:
      routeBackward(configuration, Elements<Double>(logits), experts, gradTopkWeights, gradLogits)
    case .bf16:
      routeBackward(configuration, Elements<BFloat16>(logits), experts, gradTopkWeights, gradLogits)
    case .f16:
      routeBackward(configuration, Elements<Float16>(logits), experts, gradTopkWeights, gradLogits)
    case .i32, .i64: throw Self.unsupported(logits.dtype, by: "route backward")
    }
  }

  private func route<S: Scalar>(
    _ configuration: RouteConfiguration, _ logits: Elements<S>, _ selectionBias: TensorView?,
    _ outputs: RouteOutputs
  ) throws(EngineError) {
    let (numTokens, topK) = (outputs.topkIdx.shape[0], configuration.topK)
    guard numTokens > 0 else { return }
    let numExperts = logits.count / numTokens
    let bias = try checkedBias(selectionBias, S.Wide.self)
    try checkLogits(logits, numExperts: numExperts)
    let balanced = balancedScores(configuration, logits, numExperts: numExperts)
    let topkIdx = Elements<Int32>(outputs.topkIdx)
    let topkWeights = Elements<S.Wide>(outputs.topkWeights)
    pool.forEachRange(of: numTokens, grain: Self.grain(elementsPerItem: numExperts * 8)) { tokens in
      var memory = [S.Wide](repeating: 0, count: 2 * numExperts)
      memory.withElements { memory in
        var router = TokenRouter(
          configuration, numExperts: numExperts, selectionBias: bias, memory: memory)
        for token in tokens {
          router.route(
            logits.row(token, width: numExperts),
            balanced: balanced?[token * numExperts..<(token + 1) * numExperts],
            experts: topkIdx.row(token, width: topK), weights: topkWeights.row(token, width: topK))
        }
      }
    }
  }

  private func balancedScores<S: Scalar>(
    _ configuration: RouteConfiguration, _ logits: Elements<S>, numExperts: Int
  ) -> [S.Wide]? {
    guard configuration.score == .sinkhorn, configuration.sinkhornIterations > 0 else { return nil }
    var sinkhorn = Sinkhorn(logits: logits.widened(), numExperts: numExperts)
    return sinkhorn.balanced(iterations: configuration.sinkhornIterations)
  }

  private func routeBackward<S: Scalar>(
    _ configuration: RouteConfiguration, _ logits: Elements<S>, _ experts: [Int],
    _ gradTopkWeights: TensorView, _ gradLogits: TensorView
  ) {
    let (numTokens, numExperts) = (gradLogits.shape[0], gradLogits.shape[1])
    let topK = configuration.topK
    let gradWeights = gradTopkWeights.reals(S.Wide.self)
    let gradLogits = Elements<S>(gradLogits)
    pool.forEachRange(of: numTokens, grain: Self.grain(elementsPerItem: numExperts * 8)) { tokens in
      var memory = [S.Wide](repeating: 0, count: numExperts + 2 * topK)
      memory.withElements { memory in
        let router = TokenRouterGradient(configuration, numExperts: numExperts, memory: memory)
        for token in tokens {
          let slots = token * topK..<(token + 1) * topK
          router.differentiate(
            logits.row(token, width: numExperts), experts: experts[slots],
            gradWeights: gradWeights[slots], into: gradLogits.row(token, width: numExperts))
        }
      }
    }
  }
}

private struct RouteOutputs {
  let topkIdx: TensorView
  let topkWeights: TensorView
}
