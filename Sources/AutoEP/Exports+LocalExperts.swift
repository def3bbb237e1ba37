// The header documents the functions.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation
import AutoEPCUDA
import AutoEPCore
import AutoEPSystem
import CAutoEP

private let gpuTypes: [DataType] = [.f32, .bf16, .f16]

@_cdecl("autoep_local_experts_describe") @implementation
public func autoep_local_experts_describe(
  _ context: autoep_context, _ config: UnsafePointer<autoep_experts_config>!, _ num_tokens: Int64,
  _ top_k: Int32, _ info: UnsafeMutablePointer<autoep_local_experts_info>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let context = try contexts.find(context)
    let backend = try context.cudaBackend()
    var check = TensorChecker(on: context)
    var result = try unsafe check.config(info, "info")
    let configuration = try unsafe check.experts(check.config(config, "config"), gpuTypes)
    let most = Int(Int32.max)
    guard (0...Int64(most)).contains(num_tokens) else {
      throw check.error("num_tokens", "is \(num_tokens); expected 0 to \(most)")
    }
    check.bind("T", Int(num_tokens), from: "num_tokens")
    check.bind("K", try check.positive(Int(top_k), "top_k"), from: "top_k")
    let experts = try check.localExperts(configuration, backend)
    result.routing_bytes = Int64(experts.routingByteCount)
    result.forward_workspace_bytes = Int64(experts.forwardWorkspaceByteCount)
    result.backward_workspace_bytes = Int64(experts.backwardWorkspaceByteCount)
    result.backward_scratch_bytes = Int64(experts.backwardScratchByteCount)
    unsafe info.pointee = result
  }
}

@_cdecl("autoep_local_experts_forward") @implementation
public func autoep_local_experts_forward(
  _ context: autoep_context, _ config: UnsafePointer<autoep_experts_config>!,
  _ weights: UnsafePointer<autoep_experts_weights>!, _ x: UnsafePointer<autoep_tensor>!,
  _ topk_idx: UnsafePointer<autoep_tensor>!, _ topk_weights: UnsafePointer<autoep_tensor>!,
  _ routing: UnsafeMutableRawPointer!, _ hidden: UnsafePointer<autoep_tensor>!,
  _ tokens_per_expert: UnsafePointer<autoep_tensor>!, _ y: UnsafePointer<autoep_tensor>!,
  _ workspace: UnsafeMutableRawPointer!, _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let context = try contexts.find(context)
    let backend = try context.cudaBackend()
    var check = TensorChecker(on: context)
    let configuration = try unsafe check.experts(check.config(config, "config"), gpuTypes)
    let dtype = [configuration.dtype]
    let choices = try unsafe check.tensor(topk_idx, "topk_idx", ["T", "K"], indexTypes)
    let experts = try check.localExperts(configuration, backend)
    var arena = try unsafe check.arena(
      workspace, "workspace", experts.forwardWorkspaceByteCount)
    try unsafe experts.forward(
      check.weights(weights, configuration), x: check.tensor(x, "x", ["T", "H"], dtype),
      topkIdx: choices,
      topkWeights: check.tensor(topk_weights, "topk_weights", ["T", "K"], gpuTypes),
      routing: check.arena(routing, "routing", experts.routingByteCount),
      hidden: check.tensor(hidden, "hidden", ["N", "G"], dtype),
      tokensPerExpert: check.optional(tokens_per_expert, "tokens_per_expert", ["e"], [.i32]),
      into: check.tensor(y, "y", ["T", "H"], dtype), arena: &arena)
    context.statistics.countLocalForward(rows: choices.elementCount)
  }
}

@_cdecl("autoep_local_experts_backward") @implementation
public func autoep_local_experts_backward(
  _ context: autoep_context, _ config: UnsafePointer<autoep_experts_config>!,
  _ weights: UnsafePointer<autoep_experts_weights>!, _ grad_y: UnsafePointer<autoep_tensor>!,
  _ x: UnsafePointer<autoep_tensor>!, _ topk_weights: UnsafePointer<autoep_tensor>!,
  _ routing: UnsafeRawPointer!, _ hidden: UnsafePointer<autoep_tensor>!,
  _ grad_hidden: UnsafePointer<autoep_tensor>!, _ activated: UnsafePointer<autoep_tensor>!,
  _ grad_x: UnsafePointer<autoep_tensor>!, _ grad_topk_weights: UnsafePointer<autoep_tensor>!,
  _ grad_weights: UnsafePointer<autoep_experts_weights>!, _ accumulate: Int32,
  _ scratch: UnsafeMutableRawPointer!, _ workspace: UnsafeMutableRawPointer!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let context = try contexts.find(context)
    let backend = try context.cudaBackend()
    var check = TensorChecker(on: context)
    let configuration = try unsafe check.experts(check.config(config, "config"), gpuTypes)
    let dtype = [configuration.dtype]
    let scores = try unsafe check.tensor(topk_weights, "topk_weights", ["T", "K"], gpuTypes)
    let experts = try check.localExperts(configuration, backend)
    let accumulates = try check.flag(accumulate, "accumulate")
    var arena = try unsafe check.arena(
      workspace, "workspace", experts.backwardWorkspaceByteCount)
    try unsafe experts.backward(
      check.weights(weights, configuration),
      gradY: check.tensor(grad_y, "grad_y", ["T", "H"], dtype),
      x: check.tensor(x, "x", ["T", "H"], dtype), topkWeights: scores,
      routing: check.arena(
        UnsafeMutableRawPointer(mutating: routing), "routing", experts.routingByteCount),
      hidden: check.tensor(hidden, "hidden", ["N", "G"], dtype),
      gradHidden: check.tensor(grad_hidden, "grad_hidden", ["N", "G"], dtype),
      activated: check.tensor(activated, "activated", ["N", "F"], dtype),
      gradX: check.optional(grad_x, "grad_x", ["T", "H"], dtype),
      gradTopkWeights: check.optional(
        grad_topk_weights, "grad_topk_weights", ["T", "K"], [scores.dtype]),
      gradients: check.gradients(
        grad_weights, configuration, accumulates ? [.f32] : dtype + [.f32]),
      accumulate: accumulates,
      scratch: check.arena(scratch, "scratch", experts.backwardScratchByteCount), arena: &arena)
    context.statistics.countLocalBackward()
  }
}

extension TensorChecker {
  /// The experts for the bound T and K; binds what follows from these.
  fileprivate mutating func localExperts(
    _ configuration: ExpertsConfiguration, _ backend: CUDABackend
  ) throws(EngineError) -> LocalExperts {
    let (numTokens, topK) = try (size("T"), positive(size("K"), "K"))
    let most = Int(Int32.max)
    guard numTokens <= most / topK else {
      throw error("T * K", "is \(numTokens) * \(topK); expected at most \(most) a call")
    }
    bind("N", numTokens * topK, from: "T * K")
    bind("e", configuration.numExperts, from: "config.num_experts")
    bind("H", configuration.hiddenSize, from: "config.hidden_size")
    bind("F", configuration.ffnSize, from: "config.ffn_size")
    bind("G", configuration.gateUpSize, from: "config")
    return try LocalExperts(configuration, numTokens: numTokens, topK: topK, on: backend)
  }

  fileprivate func flag(_ value: Int32, _ name: String) throws(EngineError) -> Bool {
    guard value == 0 || value == 1 else { throw error(name, "is \(value); expected 0 or 1") }
    return value == 1
  }
}
