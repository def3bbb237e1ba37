// The header documents the functions.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation
import AutoEPCore
import AutoEPSystem
import CAutoEP

let indexTypes: [DataType] = [.i32, .i64]

@_cdecl("autoep_sort_by_expert") @implementation
public func autoep_sort_by_expert(
  _ context: autoep_context, _ args: UnsafePointer<autoep_sort_args>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe onContext(context, error) { (backend, check) throws(EngineError) in
    let args = try unsafe check.structure(args, "args")
    let experts = try unsafe check.positive(Int(args.num_experts), "num_experts")
    check.bind("E", experts, from: "num_experts")
    let topkIdx = try unsafe check.tensor(args.topk_idx, "topk_idx", ["T", "K"], indexTypes)
    try check.slotCount(topkIdx)
    // An empty arena selects the sort in a single launch.
    var arena = Arena(base: .nowhere, byteCount: 0)
    try unsafe backend.sort(
      topkIdx, numExperts: experts,
      into: SlotSort(
        offsets: nil,
        rowOfSlot: check.tensor(args.row_of_slot, "row_of_slot", ["T", "K"], [.i32]),
        slotOfRow: nil,
        tokensPerExpert: check.tensor(
          args.tokens_per_expert, "tokens_per_expert", ["E"], [.i32])), &arena)
  }
}

@_cdecl("autoep_permute") @implementation
public func autoep_permute(
  _ context: autoep_context, _ x: UnsafePointer<autoep_tensor>!,
  _ row_of_slot: UnsafePointer<autoep_tensor>!, _ rows: UnsafePointer<autoep_tensor>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe onContext(context, error) { (backend, check) throws(EngineError) in
    let x = try unsafe check.tensor(x, "x", ["T", "H"], check.place.floatTypes)
    let slots = try unsafe check.rowOfSlot(row_of_slot)
    let rows = try unsafe check.tensor(rows, "rows", ["R", "H"], [x.dtype])
    try backend.check(rowOfSlot: slots, rowCount: rows.shape[0], areDistinct: true)
    try backend.permute(x, rowOfSlot: slots, weights: nil, into: rows)
  }
}

@_cdecl("autoep_permute_backward") @implementation
public func autoep_permute_backward(
  _ context: autoep_context, _ grad_rows: UnsafePointer<autoep_tensor>!,
  _ row_of_slot: UnsafePointer<autoep_tensor>!, _ grad_x: UnsafePointer<autoep_tensor>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe onContext(context, error) { (backend, check) throws(EngineError) in
    let slots = try unsafe check.rowOfSlot(row_of_slot)
    let rows = try unsafe check.tensor(
      grad_rows, "grad_rows", ["R", "H"], check.place.floatTypes)
    let gradX = try unsafe check.tensor(grad_x, "grad_x", ["T", "H"], [rows.dtype])
    try backend.check(rowOfSlot: slots, rowCount: rows.shape[0], areDistinct: false)
    try backend.unpermute(rows, rowOfSlot: slots, weights: nil, into: gradX)
  }
}

@_cdecl("autoep_unpermute") @implementation
public func autoep_unpermute(
  _ context: autoep_context, _ args: UnsafePointer<autoep_unpermute_args>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe onContext(context, error) { (backend, check) throws(EngineError) in
    let args = try unsafe check.structure(args, "args")
    let slots = try unsafe check.rowOfSlot(args.row_of_slot)
    let rows = try unsafe check.tensor(args.rows, "rows", ["R", "H"], check.place.floatTypes)
    let weights = try unsafe check.optional(
      args.topk_weights, "topk_weights", ["T", "K"], check.place.floatTypes)
    let y = try unsafe check.tensor(args.y, "y", ["T", "H"], [rows.dtype])
    try backend.check(rowOfSlot: slots, rowCount: rows.shape[0], areDistinct: false)
    try backend.unpermute(rows, rowOfSlot: slots, weights: weights, into: y)
  }
}

@_cdecl("autoep_unpermute_backward") @implementation
public func autoep_unpermute_backward(
  _ context: autoep_context, _ args: UnsafePointer<autoep_unpermute_backward_args>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe onContext(context, error) { (backend, check) throws(EngineError) in
    let args = try unsafe check.structure(args, "args")
    let slots = try unsafe check.rowOfSlot(args.row_of_slot)
    let gradY = try unsafe check.tensor(
      args.grad_y, "grad_y", ["T", "H"], check.place.floatTypes)
    let gradRows = try unsafe check.tensor(
      args.grad_rows, "grad_rows", ["R", "H"], [gradY.dtype])
    let weights = try unsafe check.optional(
      args.topk_weights, "topk_weights", ["T", "K"], check.place.floatTypes)
    try backend.check(rowOfSlot: slots, rowCount: gradRows.shape[0], areDistinct: true)
    if let weights {
      let rows = try unsafe check.tensor(args.rows, "rows", ["R", "H"], [gradY.dtype])
      try unsafe backend.slotDot(
        gradY, rows, rowOfSlot: slots,
        into: check.tensor(
          args.grad_topk_weights, "grad_topk_weights", ["T", "K"], [weights.dtype]))
    } else if unsafe args.grad_topk_weights != nil {
      throw check.error(
        "grad_topk_weights", "is given, but topk_weights is NULL; expected both or neither")
    }
    try backend.permute(gradY, rowOfSlot: slots, weights: weights, into: gradRows)
  }
}
