import AutoEPCore
import CAutoEP
import Testing

/// The experts path against the formulas, over ranks that are threads.
@Suite struct ExpertsPathTests {
  struct Case: CustomTestStringConvertible, Sendable {
    var activation = ExpertsConfiguration.Activation.silu
    var gate = ExpertsConfiguration.Gate.concatenated
    var layout = WeightLayout.outIn
    var scoreApply = ExpertsConfiguration.ScoreApply.after
    var bias = false
    var testDescription: String { "\(activation) \(gate) \(layout) \(scoreApply) bias \(bias)" }
  }

  static let cases = [
    Case(), Case(activation: .geluTanh), Case(activation: .gelu, gate: .none),
    Case(activation: .silu, gate: .none, bias: true), Case(activation: .reluSquared, gate: .none),
    Case(activation: .clampedSwiGLU, gate: .interleaved, layout: .inOut, bias: true),
    Case(activation: .clampedSwiGLU, gate: .concatenated, bias: true),
    Case(activation: .clampedSiLU, gate: .concatenated),
    Case(gate: .interleaved), Case(layout: .inOut, scoreApply: .before),
    Case(scoreApply: .before, bias: true),
  ]

  private func world(
    _ item: Case, tokens: Int, experts: Int, topK: Int, dtype: Int = AUTOEP_F64,
    choose: (inout TestNumbers) -> Int
  ) -> ExpertsWorld {
    var configuration = ExpertsConfiguration(
      numExperts: experts, hiddenSize: 5, ffnSize: 3, dtype: dtype == AUTOEP_F64 ? .f64 : .f32)
    configuration.activation = item.activation
    configuration.gate = item.gate
    configuration.weightLayout = item.layout
    configuration.scoreApply = item.scoreApply
    configuration.swigluAlpha = 1.702
    configuration.swigluLimit = 0.7
    let (h, f, g) = (
      configuration.hiddenSize, configuration.ffnSize, configuration.gateUpSize
    )
    var numbers = TestNumbers(seed: UInt64(tokens * 31 + experts))
    // Values that f32 holds exactly, so that one reference serves both types.
    func draw(_ count: Int) -> [Double] { numbers.uniform(count).map { Double(Float($0)) } }
    let inputs = ReferenceLayer.Inputs(
      x: draw(tokens * h), topkWeights: draw(tokens * topK), gateUp: draw(experts * g * h),
      gateUpBias: item.bias ? draw(experts * g) : [], down: draw(experts * h * f),
      downBias: item.bias ? draw(experts * h) : [])
    let gradY = draw(tokens * h)
    let idx = (0..<tokens * topK).map { _ in choose(&numbers) }
    return ExpertsWorld(
      layer: ReferenceLayer(configuration: configuration, topK: topK, topkIdx: idx),
      inputs: inputs, gradY: gradY, dtype: dtype)
  }

  private func check(_ world: ExpertsWorld, tokens: [Int], tolerance: Double) throws {
    let results = try world.run(tokens: tokens)
    let (layer, inputs, gradY) = (world.layer, world.inputs, world.gradY)
    let gradients = [
      ("x", results.gradX, layer.gradient(inputs, gradY, to: \.x)),
      ("weights", results.gradTopkWeights, layer.gradient(inputs, gradY, to: \.topkWeights)),
      ("gate_up", results.gradGateUp, layer.gradient(inputs, gradY, to: \.gateUp)),
      ("gate_up_bias", results.gradGateUpBias, layer.gradient(inputs, gradY, to: \.gateUpBias)),
      ("down", results.gradDown, layer.gradient(inputs, gradY, to: \.down)),
      ("down_bias", results.gradDownBias, layer.gradient(inputs, gradY, to: \.downBias)),
    ]
    let norms = gradients.map { $0.2.reduce(0) { $0 + $1 * $1 }.squareRoot() }
    let floor = 1e-6 * (norms.max() ?? 0)
    #expect(distance(results.y, layer.forward(inputs)) <= tolerance)
    for (name, got, expected) in gradients {
      #expect(distance(got, expected, floor: floor) <= tolerance, "gradient to \(name)")
    }
  }

  @Test("matches the formulas at 1, 2, 3 and 4 ranks", arguments: cases)
  func formulas(item: Case) throws {
    let experts = 6
    let world = world(item, tokens: 9, experts: experts, topK: 2) { $0.below(experts) }
    for tokens in [[9], [4, 5], [3, 0, 6], [2, 3, 1, 3]] {
      try check(world, tokens: tokens, tolerance: 1e-12)
    }
  }

  @Test("matches the formulas in f32", arguments: cases)
  func singlePrecision(item: Case) throws {
    let world = world(item, tokens: 9, experts: 4, topK: 2, dtype: AUTOEP_F32) { $0.below(4) }
    for tokens in [[9], [4, 5]] { try check(world, tokens: tokens, tolerance: 3e-6) }
  }

  @Test("has the same bits wherever the backward works", arguments: cases)
  func sharedMemory(item: Case) throws {
    // Gate/up's gradient has room for the rows in the first world, and on rank 1 none in the second.
    for (experts, expert) in [(6, nil), (5, 3)] {
      let plain = world(item, tokens: 9, experts: experts, topK: 2) {
        expert ?? $0.below(experts)
      }
      var (inPlace, frozen) = (plain, plain)
      inPlace.overwritesHidden = true
      frozen.wantsGateUpGradient = false
      for tokens in [[9], [4, 5]] {
        var results = try plain.run(tokens: tokens)
        #expect(try inPlace.run(tokens: tokens) == results)
        results.gradGateUp = []
        #expect(try frozen.run(tokens: tokens) == results)
      }
    }
  }

  @Test(
    "a backward's workspace is what gate/up's gradient has no room for",
    arguments: [
      // Of its 960 bytes the rows take 320, 720 or 1040, and the activation 192, 432 or 624.
      (4, 0), (9, 448), (13, 1088),
    ])
  func workspace(tokens: Int, expected: Int64) throws {
    let layer = world(Case(), tokens: tokens, experts: 4, topK: 2) { $0.below(4) }.layer
    let context = try TestContext(threads: 1)
    var config = layer.configuration.abi
    let idx = TestTensor([tokens, 2], AUTOEP_I64, layer.topkIdx.map(Double.init))
    var comms: [autoep_comm] = [0]
    try call { autoep_comm_create_local(1, 60, &comms, $0) }
    defer { _ = autoep_comm_free(comms[0], nil) }
    var plan: autoep_plan = 0
    var info = autoep_plan_info()
    info.struct_size = MemoryLayout<autoep_plan_info>.size
    try call {
      autoep_experts_plan(context.handle, comms[0], &config, idx.pointer, &plan, &info, $0)
    }
    defer { _ = autoep_plan_free(plan, nil) }
    let sizes = [5, 3].map { (tokens * 2 * $0 * 8 + 63) / 64 * 64 }
    #expect(info.backward_workspace_bytes == Int64(sizes.reduce(0, +)))
    #expect(info.gate_up_backward_workspace_bytes == expected)
  }

  @Test("odd cases: no tokens, one expert for all, K = E, more ranks than experts")
  func oddCases() throws {
    for tokens in [[0], [0, 0], [1, 0, 0]] {
      let count = tokens.reduce(0, +)
      let world = world(Case(bias: true), tokens: count, experts: 3, topK: 2) { $0.below(3) }
      try check(world, tokens: tokens, tolerance: 1e-12)
    }
    let crowded = world(Case(), tokens: 7, experts: 5, topK: 2) { _ in 3 }
    try check(crowded, tokens: [3, 4], tolerance: 1e-12)
    var next = 0
    let all = world(Case(), tokens: 4, experts: 3, topK: 3) { _ in
      defer { next += 1 }
      return next % 3
    }
    try check(all, tokens: [2, 2], tolerance: 1e-12)
    // 5 experts over 4 ranks: 2, 2, 1, 0.
    let uneven = world(Case(), tokens: 6, experts: 5, topK: 2) { $0.below(5) }
    try check(uneven, tokens: [2, 1, 2, 1], tolerance: 1e-12)
  }

  @Test("forward and the gradient to x have the same bits for every number of ranks")
  func sameBits() throws {
    let world = world(Case(), tokens: 24, experts: 6, topK: 2, dtype: AUTOEP_F32) { $0.below(6) }
    let alone = try world.run(tokens: [24])
    for tokens in [[24], [12, 12], [5, 19], [6, 6, 6, 6], [0, 24, 0]] {
      let spread = try world.run(tokens: tokens)
      #expect(spread.y == alone.y)
      #expect(spread.gradX == alone.gradX)
      #expect(spread.gradTopkWeights == alone.gradTopkWeights)
    }
  }

  @Test("a rank with a bad choice raises, and the others say whose fault it was")
  func badChoiceOnOneRank() throws {
    let good = world(Case(), tokens: 6, experts: 4, topK: 2) { $0.below(4) }
    var comms = [autoep_comm](repeating: 0, count: 2)
    try call { autoep_comm_create_local(2, 60, &comms, $0) }
    defer { for comm in comms { _ = autoep_comm_free(comm, nil) } }
    let world = comms
    let outcomes = onThreads(2) { rank in
      let context = try TestContext(threads: 1)
      var config = good.layer.configuration.abi
      let idx = TestTensor([1, 2], AUTOEP_I32, [0, rank == 1 ? 99 : 1])
      var plan: autoep_plan = 0
      var info = autoep_plan_info()
      info.struct_size = MemoryLayout<autoep_plan_info>.size
      try call {
        autoep_experts_plan(context.handle, world[rank], &config, idx.pointer, &plan, &info, $0)
      }
    }
    expectFailure(AUTOEP_COMMUNICATION, "rank 1") { try outcomes[0].get() }
    expectFailure(AUTOEP_INVALID_ARGUMENT, "99") { try outcomes[1].get() }
  }
}
