import AutoEPCPU
import AutoEPCore
import AutoEPReferences
import Testing

@Suite struct RoutingTests {
  @Test(arguments: RouterCase.all, [DataType.f64, .f32, .bf16, .f16])
  func choosesAndWeighsAsTheReference(_ router: RouterCase, dtype: DataType) throws {
    var random = Random(11)
    let run = try RouteRun(router, logits: random.tensor([33, router.numExperts], dtype), &random)
    let (experts, weights) = run.reference()
    #expect(run.topkIdx.integers == experts)
    expectClose(run.topkWeights, weights)
    let counts = (0..<router.numExperts).map { expert in experts.filter { $0 == expert }.count }
    #expect(run.tokensPerExpert.integers == counts)
  }

  @Test(arguments: RouterCase.all, [DataType.f64, .f32, .bf16, .f16])
  func differentiatesAsTheReference(_ router: RouterCase, dtype: DataType) throws {
    var random = Random(12)
    let run = try RouteRun(router, logits: random.tensor([9, router.numExperts], dtype), &random)
    let gradWeights = random.tensor(run.topkWeights.view.shape, run.topkWeights.view.dtype)
    let gradLogits = Tensor(run.logits.view.shape, dtype)
    try CPUBackend(numThreads: 2).routeBackward(
      router.configuration, logits: run.logits.view, topkIdx: run.topkIdx.view,
      gradTopkWeights: gradWeights.view, into: gradLogits.view)
    expectClose(gradLogits, run.referenceGradient(gradWeights.values))
  }

  @Test func tiesGoToTheLowestIndex() throws {
    for router in RouterCase.all where !router.hasBias {
      var random = Random(13)
      let (numExperts, topK) = (router.numExperts, router.configuration.topK)
      let logits = Tensor(Array(repeating: 0.5, count: 2 * numExperts), [2, numExperts], .f32)
      let run = try RouteRun(router, logits: logits, &random)
      #expect(run.topkIdx.integers == Array(0..<topK) + Array(0..<topK), "\(router)")
    }
  }

  @Test func noTokensGiveZeroCounts() throws {
    for router in RouterCase.all {
      var random = Random(14)
      let run = try RouteRun(router, logits: Tensor([0, router.numExperts], .f32), &random)
      #expect(run.tokensPerExpert.integers == Array(repeating: 0, count: router.numExperts))
    }
  }

  @Test(arguments: [DataType.f64, .f32, .bf16, .f16])
  func extremeLogitsStayFinite(dtype: DataType) throws {
    for router in RouterCase.all where router.numExperts > router.configuration.topK + 2 {
      var random = Random(15)
      let logits = random.tensor([4, router.numExperts], dtype)
      logits.values = logits.values.enumerated().map { index, value in
        index % router.numExperts == 1 ? -.infinity : value * 8 + 30_000
      }
      let run = try RouteRun(router, logits: logits, &random)
      #expect(run.topkWeights.values.allSatisfy { $0.isFinite }, "\(router)")
      #expect(run.topkIdx.integers.allSatisfy { (0..<router.numExperts).contains($0) })
    }
  }

  @Test func anInfiniteBiasForcesAndBansExperts() throws {
    let logits = Tensor([0.1, 0.2, 0.3, 0.4], [1, 4], .f32)
    let bias = Tensor([.infinity, 0, 0, -.infinity], [4], .f32)
    let (topkIdx, topkWeights) = (Tensor([1, 3], .i32), Tensor([1, 3], .f32))
    try CPUBackend(numThreads: 1).route(
      RouteConfiguration(score: .sigmoid, topK: 3), logits: logits.view, selectionBias: bias.view,
      topkIdx: topkIdx.view, topkWeights: topkWeights.view, tokensPerExpert: Tensor([4], .i32).view)
    #expect(topkIdx.integers == [0, 2, 1])
    expectClose(topkWeights, [0.1, 0.3, 0.2].map { Dual(Double(Float($0))).sigmoid.value })
  }
}
