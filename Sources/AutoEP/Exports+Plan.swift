// The header documents the functions.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation
import AutoEPCore
import AutoEPSystem
import CAutoEP

@_cdecl("autoep_expert_range") @implementation
public func autoep_expert_range(
  _ num_experts: Int32, _ num_ranks: Int32, _ rank: Int32,
  _ first_expert: UnsafeMutablePointer<Int64>!, _ local_experts: UnsafeMutablePointer<Int64>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let check = TensorChecker()
    let first = try unsafe check.pointer(first_expert, "first_expert")
    let count = try unsafe check.pointer(local_experts, "local_experts")
    let experts = try check.positive(Int(num_experts), "num_experts")
    let ranks = try check.positive(Int(num_ranks), "num_ranks")
    guard (0..<ranks).contains(Int(rank)) else {
      throw check.error("rank", "is \(rank); expected 0 to \(ranks - 1)")
    }
    let range = expertRange(numExperts: experts, numRanks: ranks, rank: Int(rank))
    unsafe first.pointee = Int64(range.lowerBound)
    unsafe count.pointee = Int64(range.count)
  }
}

@_cdecl("autoep_experts_plan") @implementation
public func autoep_experts_plan(
  _ context: autoep_context, _ comm: autoep_comm,
  _ config: UnsafePointer<autoep_experts_config>!, _ topk_idx: UnsafePointer<autoep_tensor>!,
  _ plan: UnsafeMutablePointer<autoep_plan>!, _ info: UnsafeMutablePointer<autoep_plan_info>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let context = try contexts.find(context)
    let communicator = try communicators.find(comm)
    let backend = try context.hostBackend()
    var check = TensorChecker(on: context)
    let target = try unsafe check.pointer(plan, "plan")
    _ = try unsafe check.config(info, "info")
    let configuration = try unsafe check.experts(check.config(config, "config"), floatTypes)
    let choices = try unsafe check.tensor(topk_idx, "topk_idx", ["T", "K"], indexTypes)
    _ = try check.positive(check.size("K"), "K of topk_idx")
    try check.slotCount(choices)
    let dispatcher = AllToAllDispatcher(
      backend: backend, transport: communicator.transport)
    let made = ExpertsPlan(
      plan: try dispatcher.plan(topkIdx: choices, numExperts: configuration.numExperts),
      configuration: configuration, communicator: communicator)
    unsafe info.pointee = describe(made, on: backend, structSize: info.pointee.struct_size)
    unsafe target.pointee = plans.insert(made)
  }
}

private func describe(
  _ made: ExpertsPlan, on backend: any HostBackend, structSize: Int
) -> autoep_plan_info {
  let path = made.path(on: backend)
  return autoep_plan_info(
    struct_size: structSize, num_tokens: Int64(made.plan.numTokens),
    rows_sent: Int64(made.plan.rowsSent), rows_received: Int64(made.plan.rowsReceived),
    first_expert: Int64(made.plan.localExperts.lowerBound),
    local_experts: Int64(made.plan.localExperts.count),
    saved_rows: Int64(made.savedRows),
    forward_workspace_bytes: Int64(path.forwardWorkspaceBytes(made.plan)),
    backward_workspace_bytes: Int64(
      path.backwardWorkspaceBytes(made.plan, gateUpGradient: false)),
    gate_up_backward_workspace_bytes: Int64(
      path.backwardWorkspaceBytes(made.plan, gateUpGradient: true)))
}

@_cdecl("autoep_plan_free") @implementation
public func autoep_plan_free(
  _ plan: autoep_plan, _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in try plans.remove(plan) }
}

@_cdecl("autoep_plan_tokens_per_expert") @implementation
public func autoep_plan_tokens_per_expert(
  _ plan: autoep_plan, _ sent: UnsafeMutablePointer<Int64>!,
  _ received: UnsafeMutablePointer<Int64>!, _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let plan = try plans.find(plan).plan
    if let sent = unsafe sent {
      for (expert, count) in plan.tokensPerExpertSent.enumerated() {
        unsafe sent[expert] = Int64(count)
      }
    }
    if let received = unsafe received {
      for (expert, count) in plan.tokensPerExpertReceived.enumerated() {
        unsafe received[expert] = Int64(count)
      }
    }
  }
}

extension TensorChecker {
  /// A checked description of a layer's experts, whose dtype is one of those given.
  func experts(
    _ config: autoep_experts_config, _ dtypes: [DataType]
  ) throws(EngineError) -> ExpertsConfiguration {
    guard let dtype = DataType(rawValue: config.dtype), dtypes.contains(dtype) else {
      let expected = dtypes.map { "\($0.name) (\($0.rawValue))" }.joined(separator: ", ")
      throw error("config.dtype", "is \(config.dtype); expected one of \(expected)")
    }
    var experts = ExpertsConfiguration(
      numExperts: try positive(Int(config.num_experts), "config.num_experts"),
      hiddenSize: try width(config.hidden_size, "config.hidden_size"),
      ffnSize: try width(config.ffn_size, "config.ffn_size"), dtype: dtype)
    experts.activation = try choice(
      config.activation, "config.activation", ExpertsConfiguration.Activation.self,
      "AUTOEP_SILU (1), _GELU (2), _GELU_TANH (3), _RELU_SQUARED (4), _CLAMPED_SWIGLU (5),"
        + " _CLAMPED_SILU (6)")
    experts.gate = try choice(
      config.gate, "config.gate", ExpertsConfiguration.Gate.self,
      "AUTOEP_GATE_NONE (1), _CONCATENATED (2), _INTERLEAVED (3)")
    experts.weightLayout = try layout(config.weight_layout, "config.weight_layout")
    experts.scoreApply = try choice(
      config.score_apply, "config.score_apply", ExpertsConfiguration.ScoreApply.self,
      "AUTOEP_SCORE_AFTER (1), AUTOEP_SCORE_BEFORE (2)")
    if experts.activation.isClamped { try setClamp(of: &experts, config) }
    return experts
  }

  private func width(_ value: Int64, _ name: String) throws(EngineError) -> Int {
    let most: Int64 = 1 << 24
    guard (1...most).contains(value) else {
      throw error(name, "is \(value); expected 1 to \(most)")
    }
    return Int(value)
  }

  private func setClamp(
    of experts: inout ExpertsConfiguration, _ config: autoep_experts_config
  ) throws(EngineError) {
    guard experts.gate != .none else {
      throw error("config.gate", "is NONE; the clamped activations need a gate")
    }
    guard config.swiglu_alpha.isFinite else {
      throw error("config.swiglu_alpha", "is \(config.swiglu_alpha); expected a finite number")
    }
    guard config.swiglu_limit > 0 else {
      throw error("config.swiglu_limit", "is \(config.swiglu_limit); expected a number above 0")
    }
    experts.swigluAlpha = config.swiglu_alpha
    experts.swigluLimit = config.swiglu_limit
  }
}
