import AutoEPCore
import CAutoEP
import Testing

/// Compares the layer with the formulas, over ranks that are threads.
@Suite struct LayerTests {
  struct Case: CustomTestStringConvertible, Sendable {
    var activation = ExpertsConfiguration.Activation.silu
    var gate = ExpertsConfiguration.Gate.concatenated
    var layout = WeightLayout.outIn
    var applyWeights = ExpertsConfiguration.ApplyWeights.after
    var bias = false
    var testDescription: String { "\(activation) \(gate) \(layout) \(applyWeights) bias \(bias)" }
  }

  static let cases = [
    Case(), Case(activation: .geluTanh), Case(activation: .gelu, gate: .none),
    Case(activation: .silu, gate: .none, bias: true), Case(activation: .reluSquared, gate: .none),
    Case(activation: .clampedSwiGLU, gate: .interleaved, layout: .inOut, bias: true),
    Case(activation: .clampedSwiGLU, gate: .concatenated, bias: true),
    Case(activation: .clampedSiLU, gate: .concatenated),
    Case(gate: .interleaved), Case(layout: .inOut, applyWeights: .before),
    Case(applyWeights: .before, bias: true),
  ]

  private func world(
    _ item: Case, tokens: Int, experts: Int, topK: Int, dtype: Int = AUTOEP_DTYPE_F64,
    choose: (inout TestNumbers) -> Int
  ) -> LayerWorld {
    var configuration = ExpertsConfiguration(
      numExperts: experts, topK: topK, hiddenSize: 5, ffnSize: 3,
      dtype: dtype == AUTOEP_DTYPE_F64 ? .f64 : .f32)
    configuration.activation = item.activation
    configuration.gate = item.gate
    configuration.weightLayout = item.layout
    configuration.applyWeights = item.applyWeights
    configuration.swigluAlpha = 1.702
    configuration.swigluLimit = 0.7
    let (h, f, g) = (
      configuration.hiddenSize, configuration.ffnSize, configuration.gateUpSize
    )
    var numbers = TestNumbers(seed: UInt64(tokens * 31 + experts))
    // Values that are exact in f32, so that one reference serves both types.
    func draw(_ count: Int) -> [Double] { numbers.uniform(count).map { Double(Float($0)) } }
    let inputs = ReferenceLayer.Inputs(
      x: draw(tokens * h), topkWeights: draw(tokens * topK), gateUp: draw(experts * g * h),
      gateUpBias: item.bias ? draw(experts * g) : [], down: draw(experts * h * f),
      downBias: item.bias ? draw(experts * h) : [])
    let gradY = draw(tokens * h)
    let idx = (0..<tokens * topK).map { _ in choose(&numbers) }
    return LayerWorld(
      layer: ReferenceLayer(configuration: configuration, topkIdx: idx),
      inputs: inputs, gradY: gradY, dtype: dtype)
  }

  private func check(_ world: LayerWorld, tokens: [Int], tolerance: Double) throws {
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
    let world = world(item, tokens: 9, experts: 4, topK: 2, dtype: AUTOEP_DTYPE_F32) { $0.below(4) }
    for tokens in [[9], [4, 5]] { try check(world, tokens: tokens, tolerance: 3e-6) }
  }

  @Test(
    "has the same bits for any scratch memory and any maker of the plan", arguments: cases)
  func sharedMemory(item: Case) throws {
    // In the first world, gate/up's gradient has room for the rows; in the second, rank 1's has none.
    for (experts, expert) in [(6, nil), (5, 3)] {
      let plain = world(item, tokens: 9, experts: experts, topK: 2) {
        expert ?? $0.below(experts)
      }
      var (inPlace, frozen, planned) = (plain, plain, plain)
      inPlace.overwritesSaved = true
      frozen.wantsGateUpGradient = false
      planned.plansFirst = true
      for tokens in [[9], [4, 5]] {
        var results = try plain.run(tokens: tokens)
        #expect(try inPlace.run(tokens: tokens) == results)
        #expect(try planned.run(tokens: tokens) == results)
        results.gradGateUp = []
        #expect(try frozen.run(tokens: tokens) == results)
      }
    }
  }

  @Test(
    "a slot without an expert has no row: its weight is not read, and its gradient is 0",
    arguments: cases)
  func slotsWithoutExpert(item: Case) throws {
    var world = world(item, tokens: 9, experts: 6, topK: 3) { $0.below(3) == 0 ? -1 : $0.below(6) }
    let empty = world.layer.topkIdx.indices.filter { world.layer.topkIdx[$0] < 0 }
    #expect(empty.count > 3)
    for slot in empty { world.inputs.topkWeights[slot] = .nan }
    for tokens in [[9], [4, 5], [3, 0, 6]] {
      try check(world, tokens: tokens, tolerance: 1e-12)
      let gradient = try world.run(tokens: tokens).gradTopkWeights
      #expect(empty.allSatisfy { gradient[$0] == 0 })
    }
    for slot in world.layer.topkIdx.indices { world.layer.topkIdx[slot] = -1 }
    for tokens in [[9], [4, 5]] { try check(world, tokens: tokens, tolerance: 1e-12) }
  }

  @Test("gradients are accumulated", arguments: cases)
  func accumulation(item: Case) throws {
    let plain = world(item, tokens: 9, experts: 6, topK: 2) { $0.below(6) }
    var onto = plain
    onto.accumulatesOnto = 3
    for tokens in [[9], [4, 5]] {
      let (fresh, sum) = (try plain.run(tokens: tokens), try onto.run(tokens: tokens))
      #expect(sum.gradX == fresh.gradX)
      for part in [\LayerWorld.Results.gradGateUp, \.gradGateUpBias, \.gradDown, \.gradDownBias] {
        let expected = fresh[keyPath: part].map { $0 + 3 }
        #expect(distance(sum[keyPath: part], expected) <= 1e-15)
      }
    }
  }

  @Test("a backward's workspace holds what does not fit into the gradients")
  func workspace() throws {
    let context = try TestContext(threads: 1)
    let layer = try TestLayer(
      context.handle,
      world(Case(), tokens: 1, experts: 4, topK: 2) { _ in 0 }.layer.configuration.abi())
    func bytes(_ tokens: Int, _ set: (inout autoep_workspace_args) -> Void) throws -> Int64 {
      try layer.workspace(tokens, set).backward
    }
    // Tensors of H = 5, F = 3, G = 6 and one part of the dots per row, in f64, rounded up to 64 bytes each.
    func unit(_ elements: Int) -> Int64 { Int64((elements * 8 + 63) / 64 * 64) }
    for tokens in [4, 9, 13] {
      let n = tokens * 2
      let small = 2 * unit(n)
      let all = unit(n * 6) + unit(n * 5) + unit(n * 3) + small
      #expect(try bytes(tokens) { _ in } == all)
      #expect(try bytes(tokens) { $0.overwrite_saved = 1 } == all - unit(n * 6))
      // gate/up's gradient has 4 * 6 * 5 elements; the gradient of the rows and the activation use it while they fit.
      let lent: Int64 = 4 * 6 * 5 * 8 - 63
      let rows = unit(n * 5) <= lent ? 0 : unit(n * 5)
      let room = rows == 0 ? lent - unit(n * 5) : lent
      let activated = Int64(n * 3 * 8) <= room ? 0 : unit(n * 3)
      #expect(
        try bytes(tokens) { ($0.overwrite_saved, $0.lends_gate_up) = (1, 1) } == rows + activated
          + small)
    }
  }

  @Test("bytes that are not a plan of the layer and its tokens are refused")
  func foreignPlans() throws {
    let context = try TestContext(threads: 1)
    let configuration = world(Case(), tokens: 3, experts: 4, topK: 2) { _ in 0 }.layer.configuration
    let (layer, other) = try (
      TestLayer(context.handle, configuration.abi()), TestLayer(context.handle, configuration.abi())
    )
    func plan(_ layer: TestLayer, tokens: Int) throws -> TestBuffer {
      let idx = TestTensor([tokens, 2], AUTOEP_DTYPE_I32, Array(repeating: 1, count: tokens * 2))
      let plan = TestBuffer(layer.planBytes(4))
      var args = sized(autoep_plan_args()) {
        $0.topk_idx = idx.pointer
        $0.plan = plan.buffer
      }
      var info = sized(autoep_plan_info())
      try call { autoep_layer_plan(context.handle, layer.handle, &args, &info, $0) }
      return plan
    }
    let x = TestTensor([3, 5], AUTOEP_DTYPE_F64, Array(repeating: 1, count: 15))
    let rows = TestTensor([6, 5], AUTOEP_DTYPE_F64)
    for (text, plan) in [
      ("no plan", TestBuffer(layer.planBytes(4))), ("another layer", try plan(other, tokens: 3)),
      ("4 tokens", try plan(layer, tokens: 4)),
    ] {
      expectFailure(AUTOEP_ERROR_INVALID_ARGUMENT, text) {
        var args = sized(autoep_dispatch_args()) {
          $0.plan = plan.buffer
          $0.x = x.pointer
          $0.rows = rows.pointer
        }
        try call { autoep_dispatch(context.handle, layer.handle, &args, $0) }
      }
    }
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

  @Test("y and the gradient of x have the same bits for every number of ranks")
  func sameBits() throws {
    let world = world(Case(), tokens: 24, experts: 6, topK: 2, dtype: AUTOEP_DTYPE_F32) {
      $0.below(6)
    }
    let alone = try world.run(tokens: [24])
    for tokens in [[24], [12, 12], [5, 19], [6, 6, 6, 6], [0, 24, 0]] {
      let spread = try world.run(tokens: tokens)
      #expect(spread.y == alone.y)
      #expect(spread.gradX == alone.gradX)
      #expect(spread.gradTopkWeights == alone.gradTopkWeights)
    }
  }

  @Test("a rank with an invalid topk_idx fails, and the others name it")
  func badChoiceOnOneRank() throws {
    let good = world(Case(), tokens: 6, experts: 4, topK: 2) { $0.below(4) }
    let outcomes = try onRanks(2) { rank, comm in
      let context = try TestContext(threads: 1)
      let layer = try TestLayer(context.handle, good.layer.configuration.abi(comm))
      let idx = TestTensor([1, 2], AUTOEP_DTYPE_I32, [0, rank == 1 ? 99 : 1])
      let plan = TestBuffer(layer.planBytes(1))
      var args = sized(autoep_plan_args()) {
        $0.topk_idx = idx.pointer
        $0.plan = plan.buffer
      }
      var info = sized(autoep_plan_info())
      try call { autoep_layer_plan(context.handle, layer.handle, &args, &info, $0) }
    }
    expectFailure(AUTOEP_ERROR_COMMUNICATION, "rank 1") { try outcomes[0].get() }
    expectFailure(AUTOEP_ERROR_INVALID_ARGUMENT, "99") { try outcomes[1].get() }
    #expect((outcomes[0].failure as? ABIError)?.ranks == [1])
    #expect((outcomes[0].failure as? ABIError)?.step == "exchange of token counts")
  }
}

extension Result {
  var failure: Failure? {
    if case .failure(let failure) = self { return failure }
    return nil
  }
}
