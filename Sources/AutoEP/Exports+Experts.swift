// The header documents the functions.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation
import AutoEPCore
import AutoEPSystem
import CAutoEP

@_cdecl("autoep_experts_forward") @implementation
public func autoep_experts_forward(
  _ context: autoep_context, _ plan: autoep_plan,
  _ weights: UnsafePointer<autoep_experts_weights>!, _ x: UnsafePointer<autoep_tensor>!,
  _ topk_weights: UnsafePointer<autoep_tensor>!, _ rows: UnsafePointer<autoep_tensor>!,
  _ hidden: UnsafePointer<autoep_tensor>!, _ expert_rows: UnsafePointer<autoep_tensor>!,
  _ y: UnsafePointer<autoep_tensor>!, _ workspace: UnsafeMutableRawPointer!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let context = try contexts.find(context)
    let plan = try plans.find(plan)
    let path = try plan.path(on: context.hostBackend())
    var check = TensorChecker(plan)
    var arena = try unsafe check.arena(
      workspace, "workspace", path.forwardWorkspaceBytes(plan.plan))
    try unsafe path.forward(
      plan.plan, check.weights(weights, plan.configuration),
      x: check.tensor(x, "x", ["T", "H"], [plan.configuration.dtype]),
      topkWeights: check.tensor(topk_weights, "topk_weights", ["T", "K"], floatTypes),
      saved: ExpertsSaved(
        rows: check.tensor(rows, "rows", ["S", "H"], [plan.configuration.dtype]),
        hidden: check.tensor(hidden, "hidden", ["R", "G"], [plan.configuration.dtype]),
        expertRows: check.tensor(
          expert_rows, "expert_rows", ["N", "H"], [plan.configuration.dtype])),
      into: check.tensor(y, "y", ["T", "H"], [plan.configuration.dtype]), arena: &arena)
    context.statistics.countForward(plan.plan, rank: plan.rank, rowBytes: plan.rowBytes)
  }
}

@_cdecl("autoep_experts_backward") @implementation
public func autoep_experts_backward(
  _ context: autoep_context, _ plan: autoep_plan,
  _ weights: UnsafePointer<autoep_experts_weights>!, _ grad_y: UnsafePointer<autoep_tensor>!,
  _ x: UnsafePointer<autoep_tensor>!, _ topk_weights: UnsafePointer<autoep_tensor>!,
  _ rows: UnsafePointer<autoep_tensor>!, _ hidden: UnsafePointer<autoep_tensor>!,
  _ expert_rows: UnsafePointer<autoep_tensor>!, _ grad_hidden: UnsafePointer<autoep_tensor>!,
  _ grad_x: UnsafePointer<autoep_tensor>!, _ grad_topk_weights: UnsafePointer<autoep_tensor>!,
  _ grad_weights: UnsafePointer<autoep_experts_weights>!,
  _ workspace: UnsafeMutableRawPointer!, _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let context = try contexts.find(context)
    let plan = try plans.find(plan)
    let path = try plan.path(on: context.hostBackend())
    let dtype = plan.configuration.dtype
    var check = TensorChecker(plan)
    let gradients = try unsafe check.gradients(grad_weights, plan.configuration, [dtype])
    let workspaceBytes = path.backwardWorkspaceBytes(
      plan.plan, gateUpGradient: gradients.gateUp != nil)
    let scores = try unsafe check.tensor(topk_weights, "topk_weights", ["T", "K"], floatTypes)
    try unsafe path.backward(
      plan.plan, check.weights(weights, plan.configuration),
      gradY: check.tensor(grad_y, "grad_y", ["T", "H"], [dtype]),
      x: plan.backwardReadsX
        ? check.tensor(x, "x", ["T", "H"], [dtype]) : plan.unread(rows: plan.plan.numTokens),
      topkWeights: scores,
      saved: ExpertsSaved(
        rows: check.tensor(rows, "rows", ["S", "H"], [dtype]),
        hidden: check.tensor(hidden, "hidden", ["R", "G"], [dtype]),
        expertRows: plan.backwardReadsExpertRows
          ? check.tensor(expert_rows, "expert_rows", ["N", "H"], [dtype])
          : plan.unread(rows: plan.plan.rowsSent)),
      gradHidden: check.tensor(grad_hidden, "grad_hidden", ["R", "G"], [dtype]),
      into: check.tensor(grad_x, "grad_x", ["T", "H"], [dtype]),
      gradTopkWeights: check.optional(
        grad_topk_weights, "grad_topk_weights", ["T", "K"], [scores.dtype]),
      gradients: gradients, workspace: check.arena(workspace, "workspace", workspaceBytes))
    context.statistics.countBackward(plan.plan, rank: plan.rank, rowBytes: plan.rowBytes)
  }
}
