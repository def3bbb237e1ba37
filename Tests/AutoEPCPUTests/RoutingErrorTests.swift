import AutoEPCPU
import AutoEPCore
import AutoEPSystem
import Testing

@Suite struct RoutingErrorTests {
  @Test(arguments: [Double.nan, .infinity])
  func aBadLogitNamesTheFirstTokenAndItsExpert(value: Double) throws {
    var random = Random(21)
    let logits = random.tensor([5000, 6], .f32)
    logits.values[4321 * 6 + 1] = value
    logits.values[700 * 6 + 4] = value
    let error = try #require(throws: EngineError.self) { try route(logits) }
    #expect(error.kind == .invalidArgument)
    #expect(error.message.contains("token 700 for expert 4"), "\(error)")
  }

  @Test func aRowOfMinusInfinityNamesTheToken() throws {
    let logits = Tensor([0, 0, -.infinity, -.infinity], [2, 2], .f64)
    let error = try #require(throws: EngineError.self) { try route(logits) }
    #expect(error.message.contains("token 1"), "\(error)")
  }

  @Test func aNaNBiasNamesTheExpert() throws {
    let error = try #require(throws: EngineError.self) {
      try route(Tensor([0, 0, 0], [1, 3], .f32), bias: Tensor([0, 0, .nan], [3], .f32))
    }
    #expect(error.message.contains("expert 2"), "\(error)")
  }

  @Test(arguments: [-1, 4, Int(Int32.max), Int(Int32.min)])
  func backwardRefusesAnIndexOutside(expert: Int) throws {
    let (logits, grad) = (Tensor([0, 0, 0, 0], [1, 4], .f32), Tensor([1, 4], .f32))
    let topkIdx = Tensor(integers: [1, expert], [1, 2])
    let error = try #require(throws: EngineError.self) {
      try CPUBackend(numThreads: 1).routeBackward(
        RouteConfiguration(score: .softmax, topK: 2), logits: logits.view, topkIdx: topkIdx.view,
        gradTopkWeights: Tensor([1, 1], [1, 2], .f32).view, into: grad.view)
    }
    #expect(error.kind == .invalidArgument)
    #expect(error.message.contains("\(expert) at slot 1"), "\(error)")
  }

  @Test func impossibleConfigurationsAreRefused() {
    let impossible: [(inout RouteConfiguration) -> Void] = [
      { $0.topK = 0 },
      { $0.topK = 13 },
      { $0.numGroups = 5 },
      { $0.numGroups = 0 },
      { $0.topkGroups = 5 },
      { $0.topkGroups = 0 },
      { $0.topK = 7 },
    ]
    for change in impossible {
      var configuration = RouteConfiguration(score: .softmax, topK: 6)
      (configuration.groupScore, configuration.numGroups, configuration.topkGroups) = (.max, 4, 2)
      change(&configuration)
      let topK = max(configuration.topK, 0)
      #expect(throws: EngineError.self) {
        try CPUBackend(numThreads: 1).route(
          configuration, logits: Tensor([Double](repeating: 0, count: 12), [1, 12], .f32).view,
          selectionBias: nil, topkIdx: Tensor([1, topK], .i32).view,
          topkWeights: Tensor([1, topK], .f32).view, tokensPerExpert: Tensor([12], .i32).view)
      }
    }
  }

  private func route(_ logits: Tensor, bias: Tensor? = nil) throws {
    let (numTokens, numExperts) = (logits.view.shape[0], logits.view.shape[1])
    let wide: DataType = logits.view.dtype == .f64 ? .f64 : .f32
    try CPUBackend(numThreads: 3).route(
      RouteConfiguration(score: .softmax, topK: 2), logits: logits.view, selectionBias: bias?.view,
      topkIdx: Tensor([numTokens, 2], .i32).view, topkWeights: Tensor([numTokens, 2], wide).view,
      tokensPerExpert: Tensor([numExperts], .i32).view)
  }
}
