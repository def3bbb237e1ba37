// The header documents the functions.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation
import AutoEPCore
import AutoEPSystem
import CAutoEP

@_cdecl("autoep_dispatch") @implementation
public func autoep_dispatch(
  _ context: autoep_context, _ layer: autoep_layer, _ args: UnsafePointer<autoep_dispatch_args>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    var call = try LayerCall(context, layer)
    let args = try unsafe call.check.structure(args, "args")
    let x = try unsafe call.check.tensor(args.x, "x", ["T", "H"], call.dtype)
    var opened = try unsafe OpenPlan(
      &call, args.plan, (args.rows_capacity, args.arriving_tokens, args.plan_id), args.workspace)
    let weights = try unsafe call.check.optional(
      args.topk_weights, "topk_weights", ["T", "K"], call.context.place.floatTypes)
    try unsafe call.placed.experts.dispatch(
      opened.plan, x, weights: weights,
      into: call.check.tensor(args.rows, "rows", ["R", "H"], call.dtype), &opened.arena)
  }
}

@_cdecl("autoep_combine") @implementation
public func autoep_combine(
  _ context: autoep_context, _ layer: autoep_layer, _ args: UnsafePointer<autoep_combine_args>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    var call = try LayerCall(context, layer)
    let args = try unsafe call.check.structure(args, "args")
    let y = try unsafe call.check.tensor(args.y, "y", ["T", "H"], call.dtype)
    var opened = try unsafe OpenPlan(
      &call, args.plan, (args.rows_capacity, args.arriving_tokens, args.plan_id), args.workspace)
    let weights = try unsafe call.check.optional(
      args.topk_weights, "topk_weights", ["T", "K"], call.context.place.floatTypes)
    try unsafe call.placed.experts.combine(
      opened.plan, call.check.tensor(args.rows, "rows", ["R", "H"], call.dtype), weights: weights,
      into: y, &opened.arena)
  }
}

@_cdecl("autoep_combine_backward") @implementation
public func autoep_combine_backward(
  _ context: autoep_context, _ layer: autoep_layer,
  _ args: UnsafePointer<autoep_combine_backward_args>!, _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    var call = try LayerCall(context, layer)
    let args = try unsafe call.check.structure(args, "args")
    let gradY = try unsafe call.check.tensor(args.grad_y, "grad_y", ["T", "H"], call.dtype)
    var opened = try unsafe OpenPlan(
      &call, args.plan, (args.rows_capacity, args.arriving_tokens, args.plan_id), args.workspace)
    let weights = try unsafe call.check.tensor(
      args.topk_weights, "topk_weights", ["T", "K"], call.context.place.floatTypes)
    try unsafe call.placed.experts.combineBackward(
      opened.plan, gradY: gradY,
      rows: call.check.tensor(args.rows, "rows", ["R", "H"], call.dtype), topkWeights: weights,
      gradRows: call.check.tensor(args.grad_rows, "grad_rows", ["R", "H"], call.dtype),
      gradTopkWeights: call.check.tensor(
        args.grad_topk_weights, "grad_topk_weights", ["T", "K"], [weights.dtype]), &opened.arena)
  }
}

/// An opened plan and the rest of the call's workspace.
private struct OpenPlan {
  let plan: DispatchPlan
  var arena: Arena

  /// Opens the plan for the T that an earlier tensor has bound.
  @unsafe
  init(
    _ call: inout LayerCall, _ plan: autoep_buffer,
    _ rows: (capacity: Int64, tokens: Int64, plan: Int64),
    _ workspace: autoep_buffer
  ) throws(EngineError) {
    let tokens = try call.numTokens()
    let rowCount = try call.rowCount(
      rows.capacity, rows.tokens, plan: rows.plan, numTokens: tokens)
    var arena = try unsafe call.check.buffer(
      workspace, "workspace", call.placed.dispatchBytes(tokens, rowCount))
    self.plan = try call.placed.dispatcher.open(
      unsafe call.planMemory(plan, numTokens: tokens), numTokens: tokens, rowCount: rowCount, &arena
    )
    self.arena = arena
  }
}
