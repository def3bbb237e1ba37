// The header documents the functions.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation
import AutoEPCore
import AutoEPSystem
import CAutoEP

let indexTypes: [DataType] = [.i32, .i64]
let floatTypes: [DataType] = [.f32, .f64, .bf16]

@_cdecl("autoep_sort_by_expert") @implementation
public func autoep_sort_by_expert(
  _ context: autoep_context, _ topk_idx: UnsafePointer<autoep_tensor>!, _ num_experts: Int32,
  _ row_of_slot: UnsafePointer<autoep_tensor>!, _ tokens_per_expert: UnsafePointer<autoep_tensor>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let context = try contexts.find(context)
    let backend = try context.backend()
    var check = TensorChecker(on: context)
    let experts = try check.positive(Int(num_experts), "num_experts")
    check.bind("E", experts, from: "num_experts")
    let choices = try unsafe check.tensor(topk_idx, "topk_idx", ["T", "K"], indexTypes)
    try check.slotCount(choices)
    try unsafe backend.sortByExpert(
      topkIdx: choices, numExperts: experts,
      rowOfSlot: check.tensor(row_of_slot, "row_of_slot", ["T", "K"], [.i32]),
      tokensPerExpert: check.tensor(tokens_per_expert, "tokens_per_expert", ["E"], [.i32]))
  }
}

@_cdecl("autoep_permute") @implementation
public func autoep_permute(
  _ context: autoep_context, _ x: UnsafePointer<autoep_tensor>!,
  _ row_of_slot: UnsafePointer<autoep_tensor>!, _ rows: UnsafePointer<autoep_tensor>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let context = try contexts.find(context)
    let backend = try context.backend()
    var check = TensorChecker(on: context)
    let x = try unsafe check.tensor(x, "x", ["T", "H"], floatTypes)
    let slots = try unsafe check.rowOfSlot(row_of_slot)
    try unsafe backend.permute(
      x, rowOfSlot: slots, weights: nil,
      into: check.tensor(rows, "rows", ["N", "H"], [x.dtype]))
  }
}

@_cdecl("autoep_permute_backward") @implementation
public func autoep_permute_backward(
  _ context: autoep_context, _ grad_rows: UnsafePointer<autoep_tensor>!,
  _ row_of_slot: UnsafePointer<autoep_tensor>!, _ grad_x: UnsafePointer<autoep_tensor>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let context = try contexts.find(context)
    let backend = try context.backend()
    var check = TensorChecker(on: context)
    let slots = try unsafe check.rowOfSlot(row_of_slot)
    let rows = try unsafe check.tensor(grad_rows, "grad_rows", ["N", "H"], floatTypes)
    try unsafe backend.unpermute(
      rows, rowOfSlot: slots, weights: nil,
      into: check.tensor(grad_x, "grad_x", ["T", "H"], [rows.dtype]))
  }
}

@_cdecl("autoep_unpermute") @implementation
public func autoep_unpermute(
  _ context: autoep_context, _ rows: UnsafePointer<autoep_tensor>!,
  _ row_of_slot: UnsafePointer<autoep_tensor>!, _ topk_weights: UnsafePointer<autoep_tensor>!,
  _ y: UnsafePointer<autoep_tensor>!, _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let context = try contexts.find(context)
    let backend = try context.backend()
    var check = TensorChecker(on: context)
    let slots = try unsafe check.rowOfSlot(row_of_slot)
    let rows = try unsafe check.tensor(rows, "rows", ["N", "H"], floatTypes)
    let weights = try unsafe check.optional(
      topk_weights, "topk_weights", ["T", "K"], floatTypes)
    try unsafe backend.unpermute(
      rows, rowOfSlot: slots, weights: weights,
      into: check.tensor(y, "y", ["T", "H"], [rows.dtype]))
  }
}

@_cdecl("autoep_unpermute_backward") @implementation
public func autoep_unpermute_backward(
  _ context: autoep_context, _ grad_y: UnsafePointer<autoep_tensor>!,
  _ rows: UnsafePointer<autoep_tensor>!, _ row_of_slot: UnsafePointer<autoep_tensor>!,
  _ topk_weights: UnsafePointer<autoep_tensor>!, _ grad_rows: UnsafePointer<autoep_tensor>!,
  _ grad_topk_weights: UnsafePointer<autoep_tensor>!, _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let context = try contexts.find(context)
    let backend = try context.backend()
    var check = TensorChecker(on: context)
    let slots = try unsafe check.rowOfSlot(row_of_slot)
    let gradY = try unsafe check.tensor(grad_y, "grad_y", ["T", "H"], floatTypes)
    let gradRows = try unsafe check.tensor(grad_rows, "grad_rows", ["N", "H"], [gradY.dtype])
    let weights = try unsafe check.optional(
      topk_weights, "topk_weights", ["T", "K"], floatTypes)
    if let weights {
      let rows = try unsafe check.tensor(rows, "rows", ["N", "H"], [gradY.dtype])
      try unsafe backend.slotDot(
        gradY, rows, rowOfSlot: slots,
        into: check.tensor(
          grad_topk_weights, "grad_topk_weights", ["T", "K"], [weights.dtype]))
    } else if unsafe grad_topk_weights != nil {
      throw check.error(
        "grad_topk_weights", "is given, but topk_weights is NULL; expected both or neither")
    }
    try backend.permute(gradY, rowOfSlot: slots, weights: weights, into: gradRows)
  }
}
