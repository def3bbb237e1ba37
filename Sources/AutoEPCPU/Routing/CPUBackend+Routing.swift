import AutoEPCore

extension CPUBackend {
  /// Chooses K experts a token, the tokens shared out over the threads.
  public func route(
    _ configuration: RouteConfiguration, logits: TensorView, selectionBias: TensorView?,
    topkIdx: TensorView, topkWeights: TensorView, tokensPerExpert: TensorView
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
    tokensPerExpert.store(
      integers: try ExpertCounts(topkIdx.integers(), numExperts: numExperts).tokensPerExpert)
  }

  /// The gradient to the logits, from scores computed again.
  public func routeBackward(
    _ configuration: RouteConfiguration, logits: TensorView, topkIdx: TensorView,
    gradTopkWeights: TensorView, into gradLogits: TensorView
  ) throws(EngineError) {
    let choice = try topkIdx.integers()
    _ = try ExpertCounts(choice, numExperts: logits.shape[1])
    switch logits.dtype {
    case .f32:
      routeBackward(configuration, Elements<Float>(logits), choice, gradTopkWeights, gradLogits)
    case .f64:
      routeBackward(configuration, Elements<Double>(logits), choice, gradTopkWeights, gradLogits)
    case .bf16:
      routeBackward(configuration, Elements<BFloat16>(logits), choice, gradTopkWeights, gradLogits)
    case .f16:
      routeBackward(configuration, Elements<Float16>(logits), choice, gradTopkWeights, gradLogits)
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
    let checked = try checkedLogits(logits, numExperts: numExperts)
    let balanced = balancedScores(configuration, checked, numExperts: numExperts)
    let topkIdx = Elements<Int32>(outputs.topkIdx)
    let topkWeights = Elements<S.Wide>(outputs.topkWeights)
    pool.forEachRange(of: numTokens, grain: Self.grain(elementsPerItem: numExperts * (topK + 8))) {
      var router = TokenRouter(configuration, numExperts: numExperts, selectionBias: bias)
      for token in $0 {
        let row = token * numExperts..<(token + 1) * numExperts
        let chosen = router.route(Array(checked[row]), balanced: balanced?[row])
        for k in 0..<topK {
          topkIdx[token * topK + k] = Int32(truncatingIfNeeded: chosen.experts[k])
          topkWeights[token * topK + k] = chosen.weights[k]
        }
      }
    }
  }

  private func balancedScores<R: Real>(
    _ configuration: RouteConfiguration, _ logits: [R], numExperts: Int
  ) -> [R]? {
    guard configuration.score == .sinkhorn, configuration.sinkhornIterations > 0 else { return nil }
    var sinkhorn = Sinkhorn(logits: logits, numExperts: numExperts)
    return sinkhorn.balanced(iterations: configuration.sinkhornIterations)
  }

  private func routeBackward<S: Scalar>(
    _ configuration: RouteConfiguration, _ logits: Elements<S>, _ choice: [Int],
    _ gradTopkWeights: TensorView, _ gradLogits: TensorView
  ) {
    let (numTokens, numExperts) = (gradLogits.shape[0], gradLogits.shape[1])
    let topK = configuration.topK
    let gradWeights = gradTopkWeights.reals(S.Wide.self)
    let gradLogits = Elements<S>(gradLogits)
    pool.forEachRange(of: numTokens, grain: Self.grain(elementsPerItem: numExperts * 8)) {
      var router = TokenRouterGradient<S.Wide>(configuration)
      for token in $0 {
        let slots = token * topK..<(token + 1) * topK
        let gradient = router.gradient(
          logits: logits.row(token, width: numExperts).widened(), experts: Array(choice[slots]),
          gradWeights: Array(gradWeights[slots]))
        gradLogits.row(token, width: numExperts).store(gradient)
      }
    }
  }
}

private struct RouteOutputs {
  let topkIdx: TensorView
  let topkWeights: TensorView
}
