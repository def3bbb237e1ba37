import AutoEP
import AutoEPCore
import CAutoEP
import Foundation

/// One layer's inputs, cut into the tokens and experts of `ranks`, run by that many threads.
struct ExpertsWorld: Sendable {
  var layer: ReferenceLayer
  var inputs: ReferenceLayer.Inputs<Double>
  var gradY: [Double]
  var dtype: Int = AUTOEP_F64
  /// Without it, there is none of it in the results.
  var wantsGateUpGradient = true
  /// Whether the gradient of the pre-activation takes its memory.
  var overwritesHidden = false

  /// What the ranks computed, put together again.
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
    let ranks = tokens.count
    var comms = [autoep_comm](repeating: 0, count: ranks)
    try call { autoep_comm_create_local(Int32(ranks), 60, &comms, $0) }
    defer { for comm in comms { _ = autoep_comm_free(comm, nil) } }
    var results = Results()
    let world = comms
    for outcome in onThreads(
      ranks,
      { rank in
        try RankRun(world: self, tokens: tokens, rank: rank).run(world[rank])
      })
    {
      results.append(try outcome.get())
    }
    return results
  }
}

/// Runs `body` for each rank on a thread of its own, all at once.
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
  let world: ExpertsWorld
  let tokens: Range<Int>
  let experts: Range<Int>

  init(world: ExpertsWorld, tokens: [Int], rank: Int) {
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

  func run(_ comm: autoep_comm) throws -> ExpertsWorld.Results {
    let context = try TestContext(threads: 1)
    let (h, f, g, k) = (
      configuration.hiddenSize, configuration.ffnSize, configuration.gateUpSize, world.layer.topK
    )
    let idx = ofTokens(world.layer.topkIdx.map(Double.init), [k], AUTOEP_I64)
    var config = configuration.abi
    var plan: autoep_plan = 0
    var info = autoep_plan_info()
    info.struct_size = MemoryLayout<autoep_plan_info>.size
    try call { autoep_experts_plan(context.handle, comm, &config, idx.pointer, &plan, &info, $0) }
    defer { _ = autoep_plan_free(plan, nil) }
    let (n, r) = (Int(info.rows_sent), Int(info.rows_received))

    let outIn = configuration.weightLayout == .outIn
    let gateUpShape = outIn ? [g, h] : [h, g]
    let downShape = outIn ? [h, f] : [f, h]
    let gateUp = ofExperts(world.inputs.gateUp, gateUpShape)!
    let gateUpBias = ofExperts(world.inputs.gateUpBias, [g])
    let down = ofExperts(world.inputs.down, downShape)!
    let downBias = ofExperts(world.inputs.downBias, [h])
    var weights = autoep_experts_weights(
      struct_size: MemoryLayout<autoep_experts_weights>.size, gate_up: gateUp.pointer,
      gate_up_bias: gateUpBias?.pointer, down: down.pointer, down_bias: downBias?.pointer)
    let x = ofTokens(world.inputs.x, [h])
    let scores = ofTokens(
      world.inputs.topkWeights, [k], world.dtype == AUTOEP_F64 ? AUTOEP_F64 : AUTOEP_F32)
    let rows = TestTensor([Int(info.saved_rows), h], world.dtype)
    let hidden = TestTensor([r, g], world.dtype)
    let expertRows = TestTensor([n, h], world.dtype)
    let y = TestTensor([tokens.count, h], world.dtype)
    let workspace = TestTensor([Int(info.forward_workspace_bytes) / 8], AUTOEP_F64)
    try call {
      autoep_experts_forward(
        context.handle, plan, &weights, x.pointer, scores.pointer, rows.pointer, hidden.pointer,
        expertRows.pointer, y.pointer, workspace.pointer.pointee.data, $0)
    }

    let gradY = ofTokens(world.gradY, [h])
    let gradHidden = world.overwritesHidden ? hidden : TestTensor([r, g], world.dtype)
    let gradX = TestTensor([tokens.count, h], world.dtype)
    let gradScores = TestTensor([tokens.count, k], Int(scores.dtype))
    let gradGateUp =
      world.wantsGateUpGradient
      ? TestTensor([experts.count] + gateUpShape, world.dtype) : nil
    let gradGateUpBias = gateUpBias.map { TestTensor($0.shape, world.dtype) }
    let gradDown = TestTensor([experts.count] + downShape, world.dtype)
    let gradDownBias = downBias.map { TestTensor($0.shape, world.dtype) }
    var gradWeights = autoep_experts_weights(
      struct_size: MemoryLayout<autoep_experts_weights>.size, gate_up: gradGateUp?.pointer,
      gate_up_bias: gradGateUpBias?.pointer, down: gradDown.pointer,
      down_bias: gradDownBias?.pointer)
    let backwardBytes =
      world.wantsGateUpGradient
      ? info.gate_up_backward_workspace_bytes : info.backward_workspace_bytes
    let backwardWorkspace = TestTensor([Int(backwardBytes) / 8], AUTOEP_F64)
    try call {
      autoep_experts_backward(
        context.handle, plan, &weights, gradY.pointer, x.pointer, scores.pointer, rows.pointer,
        hidden.pointer, expertRows.pointer, gradHidden.pointer, gradX.pointer, gradScores.pointer,
        &gradWeights, backwardWorkspace.pointer.pointee.data, $0)
    }
    return ExpertsWorld.Results(
      y: y.values, gradX: gradX.values, gradTopkWeights: gradScores.values,
      gradGateUp: gradGateUp?.values ?? [], gradGateUpBias: gradGateUpBias?.values ?? [],
      gradDown: gradDown.values, gradDownBias: gradDownBias?.values ?? [])
  }
}

extension ExpertsConfiguration {
  /// As the C interface has it.
  var abi: autoep_experts_config {
    autoep_experts_config(
      struct_size: MemoryLayout<autoep_experts_config>.size, num_experts: Int32(numExperts),
      hidden_size: Int64(hiddenSize), ffn_size: Int64(ffnSize), dtype: dtype.rawValue,
      activation: activation.rawValue, gate: gate.rawValue, weight_layout: weightLayout.rawValue,
      score_apply: scoreApply.rawValue, swiglu_alpha: swigluAlpha, swiglu_limit: swigluLimit)
  }
}
