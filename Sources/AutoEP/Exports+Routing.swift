// The header documents the functions.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation
import AutoEPCore
import AutoEPSystem
import CAutoEP

private let logitTypes: [DataType] = [.f32, .f64, .bf16, .f16]

/// The type that scores are computed and weights are returned in.
private func scoreType(_ logits: DataType) -> DataType { logits == .f64 ? .f64 : .f32 }

/// What a choice of experts is made of, checked.
private struct RouteCall {
  let logits: TensorView
  private let configuration: RouteConfiguration
  private let selectionBias: TensorView?
  private let topkIdx: TensorView
  private let topkWeights: TensorView
  private let tokensPerExpert: TensorView?

  /// Checks the arguments of `autoep_route`, with logits `of` these types.
  @unsafe
  init(
    _ check: inout TensorChecker, _ config: UnsafePointer<autoep_route_config>?,
    logits: UnsafePointer<autoep_tensor>?, of types: [DataType],
    selectionBias: UnsafePointer<autoep_tensor>?, topkIdx: UnsafePointer<autoep_tensor>?,
    topkWeights: UnsafePointer<autoep_tensor>?, tokensPerExpert: UnsafePointer<autoep_tensor>?
  ) throws(EngineError) {
    self.logits = try unsafe check.tensor(logits, "logits", ["T", "E"], types)
    configuration = try unsafe check.route(check.config(config, "config"))
    try check.slotCount(self.logits)
    self.selectionBias = try unsafe check.optional(
      selectionBias, "selection_bias", ["E"], [.f32, .f64])
    self.topkIdx = try unsafe check.tensor(topkIdx, "topk_idx", ["T", "K"], [.i32])
    self.topkWeights = try unsafe check.tensor(
      topkWeights, "topk_weights", ["T", "K"], [scoreType(self.logits.dtype)])
    self.tokensPerExpert = try unsafe check.optional(
      tokensPerExpert, "tokens_per_expert", ["E"], [.i32])
  }

  func run(on backend: any ComputeBackend) throws(EngineError) {
    try backend.route(
      configuration, logits: logits, selectionBias: selectionBias, topkIdx: topkIdx,
      topkWeights: topkWeights, tokensPerExpert: tokensPerExpert)
  }
}

@_cdecl("autoep_route") @implementation
public func autoep_route(
  _ context: autoep_context, _ config: UnsafePointer<autoep_route_config>!,
  _ logits: UnsafePointer<autoep_tensor>!, _ selection_bias: UnsafePointer<autoep_tensor>!,
  _ topk_idx: UnsafePointer<autoep_tensor>!, _ topk_weights: UnsafePointer<autoep_tensor>!,
  _ tokens_per_expert: UnsafePointer<autoep_tensor>!, _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let context = try contexts.find(context)
    let backend = try context.backend()
    var check = TensorChecker(on: context)
    try unsafe RouteCall(
      &check, config, logits: logits, of: logitTypes, selectionBias: selection_bias,
      topkIdx: topk_idx, topkWeights: topk_weights, tokensPerExpert: tokens_per_expert
    ).run(on: backend)
  }
}

@_cdecl("autoep_router_forward") @implementation
public func autoep_router_forward(
  _ context: autoep_context, _ config: UnsafePointer<autoep_route_config>!,
  _ x: UnsafePointer<autoep_tensor>!, _ router: UnsafePointer<autoep_tensor>!,
  _ selection_bias: UnsafePointer<autoep_tensor>!, _ logits: UnsafePointer<autoep_tensor>!,
  _ topk_idx: UnsafePointer<autoep_tensor>!, _ topk_weights: UnsafePointer<autoep_tensor>!,
  _ tokens_per_expert: UnsafePointer<autoep_tensor>!, _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let context = try contexts.find(context)
    let backend = try context.backend()
    var check = TensorChecker(on: context)
    let x = try unsafe check.tensor(x, "x", ["T", "H"], logitTypes)
    let router = try unsafe check.tensor(router, "router", ["E", "H"], [x.dtype])
    let call = try unsafe RouteCall(
      &check, config, logits: logits, of: [x.dtype], selectionBias: selection_bias,
      topkIdx: topk_idx, topkWeights: topk_weights, tokensPerExpert: tokens_per_expert)
    try backend.routerLogits(x, router: router, into: call.logits)
    try call.run(on: backend)
  }
}

@_cdecl("autoep_route_backward") @implementation
public func autoep_route_backward(
  _ context: autoep_context, _ config: UnsafePointer<autoep_route_config>!,
  _ logits: UnsafePointer<autoep_tensor>!, _ topk_idx: UnsafePointer<autoep_tensor>!,
  _ grad_topk_weights: UnsafePointer<autoep_tensor>!,
  _ grad_logits: UnsafePointer<autoep_tensor>!, _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let context = try contexts.find(context)
    let backend = try context.backend()
    var check = TensorChecker(on: context)
    let logits = try unsafe check.tensor(logits, "logits", ["T", "E"], logitTypes)
    let route = try unsafe check.route(check.config(config, "config"))
    try unsafe backend.routeBackward(
      route, logits: logits,
      topkIdx: check.tensor(topk_idx, "topk_idx", ["T", "K"], [.i32]),
      gradTopkWeights: check.tensor(
        grad_topk_weights, "grad_topk_weights", ["T", "K"], [scoreType(logits.dtype)]),
      into: check.tensor(grad_logits, "grad_logits", ["T", "E"], [logits.dtype]))
  }
}

@_cdecl("autoep_router_z_loss") @implementation
public func autoep_router_z_loss(
  _ context: autoep_context, _ logits: UnsafePointer<autoep_tensor>!,
  _ loss: UnsafePointer<autoep_tensor>!, _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let context = try contexts.find(context)
    let backend = try context.backend()
    var check = TensorChecker(on: context)
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
  unsafe guarded(error) { () throws(EngineError) in
    let context = try contexts.find(context)
    let backend = try context.backend()
    var check = TensorChecker(on: context)
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
  _ context: autoep_context, _ x: UnsafePointer<autoep_tensor>!, _ epsilon: Double,
  _ seed: UInt64, _ y: UnsafePointer<autoep_tensor>!, _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let context = try contexts.find(context)
    let backend = try context.backend()
    var check = TensorChecker(on: context)
    guard (0..<1).contains(epsilon) else {
      throw check.error("epsilon", "is \(epsilon); expected 0 or more, and less than 1")
    }
    let x = try unsafe check.tensor(x, "x", ["T", "H"], floatTypes)
    try unsafe backend.jitter(
      x, epsilon: epsilon, seed: seed, into: check.tensor(y, "y", ["T", "H"], [x.dtype]))
  }
}
