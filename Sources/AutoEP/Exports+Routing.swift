// The header documents the functions.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation
import AutoEPCore
import AutoEPSystem
import CAutoEP

private let logitTypes: [DataType] = [.f32, .f64, .bf16, .f16]

/// The dtype of scores and topk_weights for logits of a dtype.
private func scoreType(_ logits: DataType) -> DataType { logits == .f64 ? .f64 : .f32 }

/// The checked arguments of a routing call.
private struct RouteCall {
  let logits: TensorView
  private let configuration: RouteConfiguration
  private let selectionBias: TensorView?
  private let topkIdx: TensorView
  private let topkWeights: TensorView
  private let tokensPerExpert: TensorView?

  /// Checks the arguments; `logits` lists the dtypes allowed.
  @unsafe
  init(
    _ check: inout TensorChecker, _ args: autoep_route_args, of types: [DataType]
  ) throws(EngineError) {
    logits = try unsafe check.tensor(args.logits, "logits", ["T", "E"], types)
    configuration = try unsafe check.route(check.structure(args.config, "config"))
    try check.slotCount(logits)
    selectionBias = try unsafe check.optional(
      args.selection_bias, "selection_bias", ["E"], [.f32, .f64])
    topkIdx = try unsafe check.tensor(args.topk_idx, "topk_idx", ["T", "K"], [.i32])
    topkWeights = try unsafe check.tensor(
      args.topk_weights, "topk_weights", ["T", "K"], [scoreType(logits.dtype)])
    tokensPerExpert = try unsafe check.optional(
      args.tokens_per_expert, "tokens_per_expert", ["E"], [.i32])
  }

  func run(on backend: any ComputeBackend) throws(EngineError) {
    try backend.route(
      configuration, logits: logits, selectionBias: selectionBias, topkIdx: topkIdx,
      topkWeights: topkWeights, tokensPerExpert: tokensPerExpert)
  }
}

@_cdecl("autoep_route") @implementation
public func autoep_route(
  _ context: autoep_context, _ args: UnsafePointer<autoep_route_args>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe onContext(context, error) { (backend, check) throws(EngineError) in
    let args = try unsafe check.structure(args, "args")
    try unsafe RouteCall(&check, args, of: logitTypes).run(on: backend)
  }
}

@_cdecl("autoep_router_forward") @implementation
public func autoep_router_forward(
  _ context: autoep_context, _ args: UnsafePointer<autoep_router_forward_args>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe onContext(context, error) { (backend, check) throws(EngineError) in
    let args = try unsafe check.structure(args, "args")
    let x = try unsafe check.tensor(args.x, "x", ["T", "H"], logitTypes)
    let router = try unsafe check.tensor(args.router, "router", ["E", "H"], [x.dtype])
    let call = try unsafe RouteCall(&check, args.route, of: [x.dtype])
    try backend.routerLogits(x, router: router, into: call.logits)
    try call.run(on: backend)
  }
}

@_cdecl("autoep_route_backward") @implementation
public func autoep_route_backward(
  _ context: autoep_context, _ args: UnsafePointer<autoep_route_backward_args>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe onContext(context, error) { (backend, check) throws(EngineError) in
    let args = try unsafe check.structure(args, "args")
    let logits = try unsafe check.tensor(args.logits, "logits", ["T", "E"], logitTypes)
    let route = try unsafe check.route(check.structure(args.config, "config"))
    try unsafe backend.routeBackward(
      route, logits: logits,
      topkIdx: check.tensor(args.topk_idx, "topk_idx", ["T", "K"], [.i32]),
      gradTopkWeights: check.tensor(
        args.grad_topk_weights, "grad_topk_weights", ["T", "K"], [scoreType(logits.dtype)]),
      into: check.tensor(args.grad_logits, "grad_logits", ["T", "E"], [logits.dtype]))
  }
}

@_cdecl("autoep_router_z_loss") @implementation
public func autoep_router_z_loss(
  _ context: autoep_context, _ logits: UnsafePointer<autoep_tensor>!,
  _ loss: UnsafePointer<autoep_tensor>!, _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe onContext(context, error) { (backend, check) throws(EngineError) in
    check.bind("1", 1, from: "a loss")
    let logits = try unsafe check.tensor(logits, "logits", ["T", "E"], logitTypes)
    _ = try check.positive(check.size("E"), "E of logits")
    try unsafe backend.routerZLoss(
      logits: logits, into: check.tensor(loss, "loss", ["1"], [scoreType(logits.dtype)]))
  }
}

@_cdecl("autoep_router_z_loss_backward") @implementation
public func autoep_router_z_loss_backward(
  _ context: autoep_context, _ logits: UnsafePointer<autoep_tensor>!,
  _ grad_loss: UnsafePointer<autoep_tensor>!, _ grad_logits: UnsafePointer<autoep_tensor>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe onContext(context, error) { (backend, check) throws(EngineError) in
    check.bind("1", 1, from: "a loss")
    let logits = try unsafe check.tensor(logits, "logits", ["T", "E"], logitTypes)
    _ = try check.positive(check.size("E"), "E of logits")
    try unsafe backend.routerZLossBackward(
      logits: logits,
      gradLoss: check.tensor(grad_loss, "grad_loss", ["1"], [scoreType(logits.dtype)]),
      into: check.tensor(grad_logits, "grad_logits", ["T", "E"], [logits.dtype]))
  }
}

@_cdecl("autoep_jitter") @implementation
public func autoep_jitter(
  _ context: autoep_context, _ args: UnsafePointer<autoep_jitter_args>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe onContext(context, error) { (backend, check) throws(EngineError) in
    let args = try unsafe check.structure(args, "args")
    guard unsafe (0..<1).contains(args.epsilon) else {
      throw unsafe check.error("epsilon", "is \(args.epsilon); expected 0 or more, and less than 1")
    }
    let x = try unsafe check.tensor(args.x, "x", ["T", "H"], check.place.floatTypes)
    try unsafe backend.jitter(
      x, epsilon: args.epsilon, seed: args.seed,
      into: check.tensor(args.y, "y", ["T", "H"], [x.dtype]))
  }
}
