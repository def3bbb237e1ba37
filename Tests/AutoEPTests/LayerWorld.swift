import AutoEP
import AutoEPCore
import CAutoEP
import Foundation

/// One layer's inputs, split into the tokens and experts of `ranks` ranks, each run by a thread.
struct LayerWorld: Sendable {
  var layer: ReferenceLayer
  var inputs: ReferenceLayer.Inputs<Double>
  var gradY: [Double]
  var dtype: Int = AUTOEP_DTYPE_F64
  /// Whether gate/up's weight gradient is among the results.
  var wantsGateUpGradient = true
  /// Whether the backward uses the forward's saved memory as scratch.
  var overwritesSaved = false
  /// Whether a single rank also makes its plan with a call of its own.
  var plansFirst = false
  /// The initial value of the weights' gradients, which are accumulated; nil: they are overwritten.
  var accumulatesOnto: Double?

  /// The results of all ranks, concatenated.
  struct Results: Equatable, Sendable {
    var y: [Double] = []
    var gradX: [Double] = []
    var gradTopkWeights: [Double] = []
    var gradGateUp: [Double] = []
    var gradGateUpBias: [Double] = []
    var gradDown: [Double] = []
    var gradDownBias: [Double] = []

    mutating func append(_ rank: Results) {
      y += rank.y
      gradX += rank.gradX
      gradTopkWeights += rank.gradTopkWeights
      gradGateUp += rank.gradGateUp
      gradGateUpBias += rank.gradGateUpBias
      gradDown += rank.gradDown
      gradDownBias += rank.gradDownBias
    }
  }

  /// Runs forward and backward; rank p has `tokens[p]` tokens.
  func run(tokens: [Int]) throws -> Results {
    var results = Results()
    for outcome in try onRanks(
      tokens.count, { try RankRun(world: self, tokens: tokens, rank: $0).run($1) })
    {
      results.append(try outcome.get())
    }
    return results
  }
}

/// Runs `body` for each rank of a group of threads, with its communicator.
func onRanks<Value: Sendable>(
  _ count: Int, _ body: @escaping @Sendable (Int, autoep_comm) throws -> Value
) throws -> [Result<Value, any Error>] {
  var comms = [autoep_comm](repeating: 0, count: count)
  try call { autoep_comm_create_local(Int32(count), 60, &comms, $0) }
  defer { for comm in comms { _ = autoep_comm_free(comm, nil) } }
  let world = comms
  return onThreads(count) { try body($0, world[$0]) }
}

/// Runs `body` for each rank concurrently, each on its own thread.
func onThreads<Value: Sendable>(
  _ count: Int, _ body: @escaping @Sendable (Int) throws -> Value
) -> [Result<Value, any Error>] {
  let lock = NSLock()
  nonisolated(unsafe) var results = [Result<Value, any Error>?](repeating: nil, count: count)
  let done = DispatchSemaphore(value: 0)
  for index in 0..<count {
    Thread.detachNewThread {
      let result = Result { try body(index) }
      lock.withLock { results[index] = result }
      done.signal()
    }
  }
  for _ in 0..<count { done.wait() }
  return lock.withLock { results.map { $0! } }
}

/// One rank's part of a world.
private struct RankRun {
  let world: LayerWorld
  let tokens: Range<Int>
  let experts: Range<Int>

  init(world: LayerWorld, tokens: [Int], rank: Int) {
    self.world = world
    let first = tokens[..<rank].reduce(0, +)
    self.tokens = first..<first + tokens[rank]
    experts = expertRange(
      numExperts: world.layer.configuration.numExperts, numRanks: tokens.count, rank: rank)
  }

  private var configuration: ExpertsConfiguration { world.layer.configuration }

  private func ofTokens(_ values: [Double], _ shape: [Int], _ dtype: Int? = nil) -> TestTensor {
    let width = shape.reduce(1, *)
    return TestTensor(
      [tokens.count] + shape, dtype ?? world.dtype,
      Array(values[tokens.lowerBound * width..<tokens.upperBound * width]))
  }

  private func ofExperts(_ values: [Double], _ shape: [Int]) -> TestTensor? {
    if values.isEmpty { return nil }
    let width = shape.reduce(1, *)
    return TestTensor(
      [experts.count] + shape, world.dtype,
      Array(values[experts.lowerBound * width..<experts.upperBound * width]))
  }

  func run(_ comm: autoep_comm) throws -> LayerWorld.Results {
    let context = try TestContext(threads: 1)
    let layer = try TestLayer(context.handle, configuration.abi(comm))
    let idx = ofTokens(world.layer.topkIdx.map(Double.init), [k], AUTOEP_DTYPE_I64)
    let plan = TestBuffer(layer.planBytes(tokens.count))
    let rows = try makePlan(layer, context, idx, plan)
    let forward = try forward(layer, context, idx, plan, rows)
    return try backward(layer, context, plan, rows, forward)
  }

  private var h: Int { configuration.hiddenSize }
  private var k: Int { configuration.topK }
  private var outIn: Bool { configuration.weightLayout == .outIn }
  private var gateUpShape: [Int] {
    outIn ? [configuration.gateUpSize, h] : [h, configuration.gateUpSize]
  }
  private var downShape: [Int] {
    outIn ? [h, configuration.ffnSize] : [configuration.ffnSize, h]
  }

  /// Makes the plan; a single rank can leave that to its forward.
  private func makePlan(
    _ layer: TestLayer, _ context: TestContext, _ idx: TestTensor, _ plan: TestBuffer
  ) throws -> Int64 {
    guard layer.info.counts_rows != 0 || world.plansFirst else { return 0 }
    let workspace = TestBuffer(try layer.workspace(tokens.count).plan)
    var args = sized(autoep_plan_args()) {
      $0.topk_idx = idx.pointer
      $0.plan = plan.buffer
      $0.workspace = workspace.buffer
    }
    var info = sized(autoep_plan_info())
    try call { autoep_layer_plan(context.handle, layer.handle, &args, &info, $0) }
    return info.rows_capacity
  }

  /// The tensors of a forward, which its backward reads too.
  private struct Pass {
    let weights: Weights
    let x: TestTensor
    let topkWeights: TestTensor
    let saved: TestBuffer
    let y: TestTensor
  }

  /// Parameters of this rank's experts, or their gradients.
  private struct Weights {
    let gateUp: TestTensor?
    let gateUpBias: TestTensor?
    let down: TestTensor?
    let downBias: TestTensor?

    var abi: autoep_experts_weights {
      sized(autoep_experts_weights()) {
        $0.gate_up = gateUp.map { $0.pointer }
        $0.gate_up_bias = gateUpBias.map { $0.pointer }
        $0.down = down.map { $0.pointer }
        $0.down_bias = downBias.map { $0.pointer }
      }
    }
  }

  private func forward(
    _ layer: TestLayer, _ context: TestContext, _ idx: TestTensor, _ plan: TestBuffer, _ rows: Int64
  ) throws -> Pass {
    let capacity = rows == 0 && layer.info.counts_rows == 0 ? tokens.count * k : Int(rows)
    let pass = Pass(
      weights: Weights(
        gateUp: ofExperts(world.inputs.gateUp, gateUpShape),
        gateUpBias: ofExperts(world.inputs.gateUpBias, [configuration.gateUpSize]),
        down: ofExperts(world.inputs.down, downShape),
        downBias: ofExperts(world.inputs.downBias, [h])),
      x: ofTokens(world.inputs.x, [h]),
      topkWeights: ofTokens(
        world.inputs.topkWeights, [k],
        world.dtype == AUTOEP_DTYPE_F64 ? AUTOEP_DTYPE_F64 : AUTOEP_DTYPE_F32),
      saved: TestBuffer(layer.savedBytes(capacity)), y: TestTensor([tokens.count, h], world.dtype))
    let workspace = TestBuffer(
      try layer.workspace(tokens.count, rows: Int(rows)).forward)
    var weights = pass.weights.abi
    try withExtendedLifetime((pass, workspace)) {
      try withUnsafePointer(to: &weights) { weights in
        var args = sized(autoep_forward_args()) {
          $0.weights = weights
          $0.x = pass.x.pointer
          $0.topk_weights = pass.topkWeights.pointer
          $0.topk_idx = rows == 0 && layer.info.counts_rows == 0 ? idx.pointer : nil
          $0.plan = plan.buffer
          $0.rows_capacity = rows
          $0.saved = pass.saved.buffer
          $0.y = pass.y.pointer
          $0.workspace = workspace.buffer
        }
        try call { autoep_layer_forward(context.handle, layer.handle, &args, $0) }
      }
    }
    return pass
  }

  private func backward(
    _ layer: TestLayer, _ context: TestContext, _ plan: TestBuffer, _ rows: Int64, _ pass: Pass
  ) throws -> LayerWorld.Results {
    let gradY = ofTokens(world.gradY, [h])
    let gradX = TestTensor([tokens.count, h], world.dtype)
    let gradTopkWeights = TestTensor([tokens.count, k], Int(pass.topkWeights.dtype))
    let start = world.accumulatesOnto.map { [$0] }
    func gradient(_ of: TestTensor?) -> TestTensor? {
      of.map { of in
        TestTensor(of.shape, world.dtype, start.map { Array(repeating: $0[0], count: of.count) })
      }
    }
    let gradients = Weights(
      gateUp: world.wantsGateUpGradient ? gradient(pass.weights.gateUp) : nil,
      gateUpBias: gradient(pass.weights.gateUpBias), down: gradient(pass.weights.down),
      downBias: gradient(pass.weights.downBias))
    let accumulates: Int32 = world.accumulatesOnto == nil ? 0 : 1
    let workspace = TestBuffer(
      try layer.workspace(tokens.count, rows: Int(rows)) {
        $0.overwrite_saved = world.overwritesSaved ? 1 : 0
        $0.lends_gate_up = world.wantsGateUpGradient && accumulates == 0 ? 1 : 0
        $0.lends_grad_x = 1
      }.backward)
    var (weights, gradWeights) = (pass.weights.abi, gradients.abi)
    try withExtendedLifetime((pass, gradients, workspace)) {
      try withUnsafePointer(to: &weights) { weights in
        try withUnsafePointer(to: &gradWeights) { gradWeights in
          var args = sized(autoep_backward_args()) {
            $0.weights = weights
            $0.grad_y = gradY.pointer
            $0.x = layer.info.backward_reads_x == 0 ? nil : pass.x.pointer
            $0.topk_weights = pass.topkWeights.pointer
            $0.plan = plan.buffer
            $0.rows_capacity = rows
            $0.saved = pass.saved.buffer
            $0.overwrite_saved = world.overwritesSaved ? 1 : 0
            $0.grad_x = gradX.pointer
            $0.grad_topk_weights = gradTopkWeights.pointer
            $0.grad_weights = gradWeights
            $0.accumulate = accumulates
            $0.workspace = workspace.buffer
          }
          try call { autoep_layer_backward(context.handle, layer.handle, &args, $0) }
        }
      }
    }
    return LayerWorld.Results(
      y: pass.y.values, gradX: gradX.values, gradTopkWeights: gradTopkWeights.values,
      gradGateUp: gradients.gateUp?.values ?? [],
      gradGateUpBias: gradients.gateUpBias?.values ?? [],
      gradDown: gradients.down?.values ?? [], gradDownBias: gradients.downBias?.values ?? [])
  }
}
