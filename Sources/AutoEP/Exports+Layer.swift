// The header documents the functions.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation
import AutoEPCore
import AutoEPSystem
import CAutoEP

@_cdecl("autoep_expert_range") @implementation
public func autoep_expert_range(
  _ num_experts: Int32, _ num_ranks: Int32, _ rank: Int32,
  _ range: UnsafeMutablePointer<autoep_range>!, _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let check = TensorChecker()
    let target = try unsafe check.pointer(range, "range")
    let experts = try check.positive(Int(num_experts), "num_experts")
    let ranks = try check.positive(Int(num_ranks), "num_ranks")
    guard (0..<ranks).contains(Int(rank)) else {
      throw check.error("rank", "is \(rank); expected 0 to \(ranks - 1)")
    }
    let own = expertRange(numExperts: experts, numRanks: ranks, rank: Int(rank))
    unsafe target.pointee = autoep_range(first: Int64(own.lowerBound), count: Int64(own.count))
  }
}

@_cdecl("autoep_layer_create") @implementation
public func autoep_layer_create(
  _ context: autoep_context, _ config: UnsafePointer<autoep_layer_config>!,
  _ layer: UnsafeMutablePointer<autoep_layer>!, _ info: UnsafeMutablePointer<autoep_layer_info>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let context = try contexts.find(context)
    let check = TensorChecker(on: context)
    let target = try unsafe check.pointer(layer, "layer")
    var result = try unsafe check.structure(info, "info")
    let given = try unsafe check.structure(config, "config")
    let configuration = try check.layer(given)
    let communicator = given.comm == 0 ? nil : try communicators.find(given.comm)
    let made = Layer(
      configuration, communicator, try check.dispatch(given, configuration), at: context.place)
    try check.reach(made, communicator)
    let placed = made.on(try context.backend())
    let plan = placed.dispatcher.planBytes
    let (rows, tokens) = (placed.experts.savedBytesOfRows, placed.experts.savedBytesOfTokens)
    result.first_expert = Int64(placed.dispatcher.experts.lowerBound)
    result.local_experts = Int64(placed.dispatcher.experts.count)
    result.counts_rows = made.countsRows ? 1 : 0
    result.backward_reads_x = placed.experts.backwardReadsX ? 1 : 0
    result.plan_bytes = Int64(plan.fixed)
    result.plan_bytes_per_token = Int64(plan.perItem)
    result.saved_bytes = Int64(rows.fixed + tokens.fixed)
    result.saved_bytes_per_row = Int64(rows.perItem)
    result.saved_bytes_per_token = Int64(tokens.perItem)
    unsafe info.pointee = result
    unsafe target.pointee = layers.insert(made)
  }
}

@_cdecl("autoep_layer_free") @implementation
public func autoep_layer_free(
  _ layer: autoep_layer, _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in try layers.remove(layer) }
}

@_cdecl("autoep_layer_workspace") @implementation
public func autoep_layer_workspace(
  _ context: autoep_context, _ layer: autoep_layer,
  _ args: UnsafePointer<autoep_workspace_args>!,
  _ bytes: UnsafeMutablePointer<autoep_workspace_bytes>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    var call = try LayerCall(context, layer)
    let args = try unsafe call.check.structure(args, "args")
    var result = try unsafe call.check.structure(bytes, "bytes")
    let most = Int64(Int32.max)
    guard (0...most).contains(args.num_tokens) else {
      throw call.check.error("num_tokens", "is \(args.num_tokens); expected 0 to \(most)")
    }
    call.check.bind("T", Int(args.num_tokens), from: "num_tokens")
    let tokens = try call.numTokens()
    let rows = try call.rowCount(args.rows_capacity, args.arriving_tokens, numTokens: tokens)
    let needs = try ExpertsLayer.BackwardNeeds(
      overwritesSaved: call.check.flag(args.overwrite_saved, "overwrite_saved"),
      lendsGateUp: call.check.flag(args.lends_gate_up, "lends_gate_up"),
      lendsGradX: call.check.flag(args.lends_grad_x, "lends_grad_x"))
    result.plan = Int64(call.placed.planScratchBytes(tokens))
    result.forward = Int64(
      call.placed.forwardBytes(tokens, rows, makesPlan: !call.layer.countsRows))
    result.backward = try Int64(call.placed.backwardBytes(tokens, rows, needs))
    result.dispatch = Int64(call.placed.dispatchBytes(tokens, rows))
    unsafe bytes.pointee = result
  }
}

@_cdecl("autoep_layer_plan") @implementation
public func autoep_layer_plan(
  _ context: autoep_context, _ layer: autoep_layer, _ args: UnsafePointer<autoep_plan_args>!,
  _ info: UnsafeMutablePointer<autoep_plan_info>!, _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    var call = try LayerCall(context, layer)
    let args = try unsafe call.check.structure(args, "args")
    var result = try unsafe call.check.structure(info, "info")
    let topkIdx = try unsafe call.check.tensor(args.topk_idx, "topk_idx", ["T", "K"], indexTypes)
    let tokens = try call.numTokens()
    let sent = try unsafe call.check.optional(
      args.tokens_per_expert, "tokens_per_expert", ["E"], [.i32])
    let received = try unsafe call.check.optional(
      args.rows_per_expert, "rows_per_expert", ["e"], [.i32])
    let memory = try unsafe call.planMemory(args.plan, numTokens: tokens)
    var arena = try unsafe call.check.buffer(
      args.workspace, "workspace", call.placed.planScratchBytes(tokens))
    let rows = try call.placed.dispatcher.plan(
      topkIdx, counts: PlanCounts(tokensPerExpert: sent, rowsPerExpert: received), in: memory,
      &arena)
    result.rows = Int64(rows.exact ?? -1)
    result.rows_capacity = Int64(rows.capacity)
    result.arriving_tokens = Int64(rows.tokens)
    result.id = Int64(rows.plan)
    unsafe info.pointee = result
  }
}

@_cdecl("autoep_layer_forward") @implementation
public func autoep_layer_forward(
  _ context: autoep_context, _ layer: autoep_layer, _ args: UnsafePointer<autoep_forward_args>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    var call = try LayerCall(context, layer)
    let args = try unsafe call.check.structure(args, "args")
    let x = try unsafe call.check.tensor(args.x, "x", ["T", "H"], call.dtype)
    let topkIdx = try unsafe call.check.optional(
      args.topk_idx, "topk_idx", ["T", "K"], indexTypes)
    let tokens = try call.numTokens()
    let rows = try unsafe call.rowCount(
      args.rows_capacity, args.arriving_tokens, plan: args.plan_id, numTokens: tokens)
    let pass = try unsafe ExpertsLayer.Forward(
      weights: call.check.weights(args.weights, call.configuration), x: x,
      topkWeights: call.check.tensor(
        args.topk_weights, "topk_weights", ["T", "K"], call.context.place.floatTypes),
      saved: call.saved(args.saved, rows: rows),
      y: call.check.tensor(args.y, "y", ["T", "H"], call.dtype))
    let sent = try unsafe call.check.optional(
      args.tokens_per_expert, "tokens_per_expert", ["E"], [.i32])
    let memory = try unsafe call.planMemory(args.plan, numTokens: tokens)
    var arena = try unsafe call.check.buffer(
      args.workspace, "workspace",
      call.placed.forwardBytes(tokens, rows, makesPlan: topkIdx != nil))
    if let topkIdx {
      try call.checkMakesPlan()
      try arena.scope { (arena) throws(EngineError) in
        _ = try call.placed.dispatcher.plan(
          topkIdx, counts: PlanCounts(tokensPerExpert: sent), in: memory, &arena)
      }
    } else if sent != nil {
      throw call.check.error(
        "tokens_per_expert", "is given, but topk_idx is NULL; autoep_layer_plan writes it instead")
    }
    let plan = try call.placed.dispatcher.open(
      memory, numTokens: tokens, rowCount: rows, &arena)
    try call.placed.experts.forward(plan, pass, &arena)
    let (traffic, rowBytes) = call.traffic(plan)
    call.context.statistics.countForward(traffic, rowBytes: rowBytes)
  }
}

@_cdecl("autoep_layer_backward") @implementation
public func autoep_layer_backward(
  _ context: autoep_context, _ layer: autoep_layer, _ args: UnsafePointer<autoep_backward_args>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    var call = try LayerCall(context, layer)
    let args = try unsafe call.check.structure(args, "args")
    let gradY = try unsafe call.check.tensor(args.grad_y, "grad_y", ["T", "H"], call.dtype)
    let tokens = try call.numTokens()
    let rows = try unsafe call.rowCount(
      args.rows_capacity, args.arriving_tokens, plan: args.plan_id, numTokens: tokens)
    let pass = try unsafe call.backward(args, gradY: gradY, rows: rows)
    let memory = try unsafe call.planMemory(args.plan, numTokens: tokens)
    var arena = try unsafe call.check.buffer(
      args.workspace, "workspace", call.placed.backwardBytes(tokens, rows, pass.needs))
    let plan = try call.placed.dispatcher.open(
      memory, numTokens: tokens, rowCount: rows, &arena)
    try call.placed.experts.backward(plan, pass, &arena)
    let (traffic, rowBytes) = call.traffic(plan)
    call.context.statistics.countBackward(traffic, rowBytes: rowBytes)
  }
}

extension LayerCall {
  /// Throws if the layer has several ranks: only a single rank knows the capacity before a plan is made.
  fileprivate func checkMakesPlan() throws(EngineError) {
    guard layer.countsRows else { return }
    throw check.error(
      "topk_idx",
      "is given, but the layer has several ranks; expected NULL and a plan of autoep_layer_plan, which"
        + " counts the rows")
  }

  @unsafe
  fileprivate mutating func backward(
    _ args: autoep_backward_args, gradY: TensorView, rows: RowCount
  ) throws(EngineError) -> ExpertsLayer.Backward {
    let topkWeights = try unsafe check.tensor(
      args.topk_weights, "topk_weights", ["T", "K"], context.place.floatTypes)
    let gradX = try unsafe check.optional(args.grad_x, "grad_x", ["T", "H"], dtype)
    guard gradX != nil || !layer.countsRows else {
      throw check.error("grad_x", "is NULL; expected a tensor, because the layer has several ranks")
    }
    let x =
      placed.experts.backwardReadsX
      ? try unsafe check.tensor(args.x, "x", ["T", "H"], dtype)
      : try unsafe check.optional(args.x, "x", ["T", "H"], dtype)
    return try unsafe ExpertsLayer.Backward(
      weights: check.weights(args.weights, configuration), gradY: gradY, x: x,
      topkWeights: topkWeights, saved: saved(args.saved, rows: rows),
      overwritesSaved: check.flag(args.overwrite_saved, "overwrite_saved"), gradX: gradX,
      gradTopkWeights: check.optional(
        args.grad_topk_weights, "grad_topk_weights", ["T", "K"], [topkWeights.dtype]),
      gradients: check.gradients(
        args.grad_weights, configuration,
        accumulate: check.flag(args.accumulate, "accumulate")))
  }
}

extension TensorChecker {
  /// Checks the kind of rows that a layer sends to other ranks.
  fileprivate func dispatch(
    _ config: autoep_layer_config, _ layer: ExpertsConfiguration
  ) throws(EngineError) -> Layer.Dispatch {
    let kind = try enumValue(
      config.dispatch, "config.dispatch", Layer.Dispatch.self,
      "AUTOEP_DISPATCH_SLOTS (1), _TOKENS (2)")
    guard kind != .tokens || layer.applyWeights == .after else {
      throw error(
        "config.dispatch",
        "is AUTOEP_DISPATCH_TOKENS, but apply_weights is BEFORE; expected AUTOEP_DISPATCH_SLOTS")
    }
    return kind
  }

  /// Checks the description of a layer's experts.
  func layer(_ config: autoep_layer_config) throws(EngineError) -> ExpertsConfiguration {
    let dtypes = place.floatTypes
    guard let dtype = DataType(rawValue: config.dtype), dtypes.contains(dtype) else {
      let expected = dtypes.map { "\($0.name) (\($0.rawValue))" }.joined(separator: ", ")
      throw error("config.dtype", "is \(config.dtype); expected one of \(expected)")
    }
    let experts = try positive(Int(config.num_experts), "config.num_experts")
    let topK = try positive(Int(config.top_k), "config.top_k")
    var layer = ExpertsConfiguration(
      numExperts: experts, topK: topK,
      hiddenSize: try width(config.hidden_size, "config.hidden_size"),
      ffnSize: try width(config.ffn_size, "config.ffn_size"), dtype: dtype)
    layer.activation = try enumValue(
      config.activation, "config.activation", ExpertsConfiguration.Activation.self,
      "AUTOEP_ACTIVATION_SILU (1), _GELU (2), _GELU_TANH (3), _RELU_SQUARED (4), _CLAMPED_SWIGLU (5),"
        + " _CLAMPED_SILU (6)")
    layer.gate = try enumValue(
      config.gate, "config.gate", ExpertsConfiguration.Gate.self,
      "AUTOEP_GATE_NONE (1), _CONCATENATED (2), _INTERLEAVED (3)")
    layer.weightLayout = try layout(config.weight_layout, "config.weight_layout")
    layer.applyWeights = try enumValue(
      config.apply_weights, "config.apply_weights", ExpertsConfiguration.ApplyWeights.self,
      "AUTOEP_APPLY_AFTER (1), _BEFORE (2)")
    if layer.activation.isClamped { try setClamp(of: &layer, config) }
    return layer
  }

  /// Throws unless the communicator moves the memory of the layer's device.
  fileprivate func reach(_ layer: Layer, _ communicator: Communicator?) throws(EngineError) {
    guard layer.countsRows, let transport = communicator?.transport else { return }
    guard transport.reaches(layer.place.space) else {
      throw error(
        "config.comm",
        "does not move memory of \(layer.place.name), which the context is of; expected a communicator of"
          + " autoep_comm_create_nccl on this device", .unsupported)
    }
  }

  private func width(_ value: Int64, _ name: String) throws(EngineError) -> Int {
    let most: Int64 = 1 << 24
    guard (1...most).contains(value) else {
      throw error(name, "is \(value); expected 1 to \(most)")
    }
    return Int(value)
  }

  private func setClamp(
    of layer: inout ExpertsConfiguration, _ config: autoep_layer_config
  ) throws(EngineError) {
    guard layer.gate != .none else {
      throw error("config.gate", "is NONE; the clamped activations need a gate")
    }
    guard config.swiglu_alpha.isFinite else {
      throw error("config.swiglu_alpha", "is \(config.swiglu_alpha); expected a finite number")
    }
    guard config.swiglu_limit > 0 else {
      throw error("config.swiglu_limit", "is \(config.swiglu_limit); expected a number above 0")
    }
    layer.swigluAlpha = config.swiglu_alpha
    layer.swigluLimit = config.swiglu_limit
  }
}
