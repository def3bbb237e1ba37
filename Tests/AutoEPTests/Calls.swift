import AutoEP
import CAutoEP
import Testing

/// A well-formed call of a function that takes tensors, to be spoiled one tensor at a time.
struct Call: Sendable, CustomTestStringConvertible {
  let name: String
  /// The tensors, in the order of `run`.
  let tensors: [Argument]
  /// Calls the function; a NULL is a tensor left out.
  let run:
    @Sendable ([UnsafePointer<autoep_tensor>?], autoep_context, ErrorPointer) ->
      autoep_status

  typealias ErrorPointer = UnsafeMutablePointer<autoep_error>

  struct Argument: Sendable {
    let name: String
    let shape: [Int]
    let dtype: Int
    let values: [Double]
    let isOptional: Bool

    init(
      _ name: String, _ shape: [Int], _ dtype: Int = AUTOEP_F32, values: [Double]? = nil,
      isOptional: Bool = false
    ) {
      self.name = name
      self.shape = shape
      self.dtype = dtype
      self.values = values ?? Array(repeating: 0.5, count: shape.reduce(1, *))
      self.isOptional = isOptional
    }
  }

  var testDescription: String { name }
  var takesAnyShape: Bool { name.hasPrefix("autoep_all_") }
  /// Whether a wrong size can be told from a right one.
  func bindsSize(of argument: Argument) -> Bool {
    !takesAnyShape && name != "autoep_experts_plan"
      && (name, argument.name) != ("autoep_router_z_loss", "logits")
  }

  /// Makes the tensors, and calls with what `change` makes of them.
  func callAsFunction(
    _ context: autoep_context,
    change: ([TestTensor]) -> [UnsafePointer<autoep_tensor>?] = {
      $0.map(\.pointer)
    }
  ) throws {
    let made = tensors.map { TestTensor($0.shape, $0.dtype, $0.values) }
    let pointers = change(made)
    try withExtendedLifetime(made) { try call { run(pointers, context, $0) } }
  }
}

extension Call {
  private static let route = autoep_route_config(
    struct_size: MemoryLayout<autoep_route_config>.size,
    score: autoep_score(AUTOEP_SCORE_SOFTMAX), top_k: 2, normalize: 1, normalize_epsilon: 0,
    scale: 1, group_score: 0, num_groups: 1, topk_groups: 1, training: 0, sinkhorn_iterations: 0)

  private static let slots = [0.0, 3, 1, 4, 2, 5]
  private static let choices = [0.0, 1, 2, 3, 1, 0]
  private static let outIn = autoep_weight_layout(AUTOEP_WEIGHT_OUT_IN)

  /// T = 3, E = 4, K = 2, N = 6, H = 5.
  static let all = [
    Call(
      name: "autoep_route",
      tensors: [
        Argument("logits", [3, 4]), Argument("selection_bias", [4], isOptional: true),
        Argument("topk_idx", [3, 2], AUTOEP_I32), Argument("topk_weights", [3, 2]),
        Argument("tokens_per_expert", [4], AUTOEP_I32, isOptional: true),
      ]
    ) { t, context, error in
      var config = route
      return autoep_route(context, &config, t[0], t[1], t[2], t[3], t[4], error)
    },
    Call(
      name: "autoep_router_forward",
      tensors: [
        Argument("x", [3, 5]), Argument("router", [4, 5]),
        Argument("selection_bias", [4], isOptional: true), Argument("logits", [3, 4]),
        Argument("topk_idx", [3, 2], AUTOEP_I32), Argument("topk_weights", [3, 2]),
        Argument("tokens_per_expert", [4], AUTOEP_I32, isOptional: true),
      ]
    ) { t, context, error in
      var config = route
      return autoep_router_forward(
        context, &config, t[0], t[1], t[2], t[3], t[4], t[5], t[6], error)
    },
    Call(
      name: "autoep_route_backward",
      tensors: [
        Argument("logits", [3, 4]), Argument("topk_idx", [3, 2], AUTOEP_I32, values: choices),
        Argument("grad_topk_weights", [3, 2]), Argument("grad_logits", [3, 4]),
      ]
    ) { t, context, error in
      var config = route
      return autoep_route_backward(context, &config, t[0], t[1], t[2], t[3], error)
    },
    Call(
      name: "autoep_router_z_loss", tensors: [Argument("logits", [3, 4]), Argument("loss", [1])]
    ) {
      t, context, error in autoep_router_z_loss(context, t[0], t[1], error)
    },
    Call(
      name: "autoep_router_z_loss_backward",
      tensors: [
        Argument("logits", [3, 4]), Argument("grad_loss", [1]), Argument("grad_logits", [3, 4]),
      ]
    ) { t, context, error in autoep_router_z_loss_backward(context, t[0], t[1], t[2], error) },
    Call(name: "autoep_jitter", tensors: [Argument("x", [3, 5]), Argument("y", [3, 5])]) {
      t, context, error in autoep_jitter(context, t[0], 0.1, 7, t[1], error)
    },
    Call(
      name: "autoep_sort_by_expert",
      tensors: [
        Argument("topk_idx", [3, 2], AUTOEP_I64, values: choices),
        Argument("row_of_slot", [3, 2], AUTOEP_I32),
        Argument("tokens_per_expert", [4], AUTOEP_I32),
      ]
    ) { t, context, error in autoep_sort_by_expert(context, t[0], 4, t[1], t[2], error) },
    Call(
      name: "autoep_permute",
      tensors: [
        Argument("x", [3, 5]), Argument("row_of_slot", [3, 2], AUTOEP_I32, values: slots),
        Argument("rows", [6, 5]),
      ]
    ) { t, context, error in autoep_permute(context, t[0], t[1], t[2], error) },
    Call(
      name: "autoep_permute_backward",
      tensors: [
        Argument("grad_rows", [6, 5]), Argument("row_of_slot", [3, 2], AUTOEP_I32, values: slots),
        Argument("grad_x", [3, 5]),
      ]
    ) { t, context, error in autoep_permute_backward(context, t[0], t[1], t[2], error) },
    Call(
      name: "autoep_unpermute",
      tensors: [
        Argument("rows", [6, 5]), Argument("row_of_slot", [3, 2], AUTOEP_I32, values: slots),
        Argument("topk_weights", [3, 2], isOptional: true), Argument("y", [3, 5]),
      ]
    ) { t, context, error in autoep_unpermute(context, t[0], t[1], t[2], t[3], error) },
    Call(
      name: "autoep_unpermute_backward",
      tensors: [
        Argument("grad_y", [3, 5]), Argument("rows", [6, 5]),
        Argument("row_of_slot", [3, 2], AUTOEP_I32, values: slots),
        Argument("topk_weights", [3, 2]), Argument("grad_rows", [6, 5]),
        Argument("grad_topk_weights", [3, 2]),
      ]
    ) { t, context, error in
      autoep_unpermute_backward(context, t[0], t[1], t[2], t[3], t[4], t[5], error)
    },
    Call(
      name: "autoep_grouped_gemm",
      tensors: [
        Argument("rows", [6, 5]), Argument("weights", [4, 3, 5]),
        Argument("rows_per_group", [4], AUTOEP_I64, values: [1, 0, 3, 2]), Argument("out", [6, 3]),
      ]
    ) { t, context, error in autoep_grouped_gemm(context, t[0], t[1], outIn, t[2], t[3], error) },
    Call(
      name: "autoep_grouped_gemm_weight_grad",
      tensors: [
        Argument("grad_out", [6, 3]), Argument("rows", [6, 5]),
        Argument("rows_per_group", [4], AUTOEP_I32, values: [1, 0, 3, 2]),
        Argument("grad_weights", [4, 3, 5]),
      ]
    ) { t, context, error in
      autoep_grouped_gemm_weight_grad(context, t[0], t[1], outIn, t[2], t[3], error)
    },
    Call(
      name: "autoep_all_to_all", tensors: [Argument("send", [3, 5]), Argument("receive", [3, 5])]
    ) {
      t, _, error in withSelf(error) { autoep_all_to_all($0, t[0], [3], t[1], [3], error) }
    },
    Call(name: "autoep_all_reduce", tensors: [Argument("data", [3, 5])]) {
      t, _, error in withSelf(error) { autoep_all_reduce($0, t[0], error) }
    },
    Call(
      name: "autoep_experts_plan",
      tensors: [
        Argument("topk_idx", [3, 2], AUTOEP_I64, values: choices)
      ]
    ) { t, context, error in
      withPlan(t[0], context, error) { _ in autoep_status(AUTOEP_OK) }
    },
    experts,
  ]

  /// A layer of H = 5, F = 3 whose rows are weighted, and so kept; the backward after its forward.
  private static let experts = Call(
    name: "autoep_experts_forward and _backward",
    tensors: [
      Argument("x", [3, 5]), Argument("topk_weights", [3, 2]),
      Argument("weights.gate_up", [4, 6, 5]),
      Argument("weights.down", [4, 5, 3]), Argument("rows", [6, 5]), Argument("hidden", [6, 6]),
      Argument("expert_rows", [6, 5]), Argument("y", [3, 5]), Argument("grad_y", [3, 5]),
      Argument("grad_hidden", [6, 6]), Argument("grad_x", [3, 5]),
      Argument("grad_topk_weights", [3, 2], isOptional: true),
      Argument("grad_weights.gate_up", [4, 6, 5], isOptional: true),
      Argument("grad_weights.down", [4, 5, 3], isOptional: true),
    ]
  ) { t, context, error in
    let idx = TestTensor([3, 2], AUTOEP_I64, choices)
    let workspace = TestTensor([4096], AUTOEP_F64)
    return withPlan(idx.pointer, context, error) { plan in
      let size = MemoryLayout<autoep_experts_weights>.size
      var weights = autoep_experts_weights(
        struct_size: size, gate_up: t[2], gate_up_bias: nil, down: t[3], down_bias: nil)
      var gradients = autoep_experts_weights(
        struct_size: size, gate_up: t[12], gate_up_bias: nil, down: t[13], down_bias: nil)
      let space = workspace.pointer.pointee.data
      let status = autoep_experts_forward(
        context, plan, &weights, t[0], t[1], t[4], t[5], t[6], t[7], space, error)
      guard status == AUTOEP_OK else { return status }
      return autoep_experts_backward(
        context, plan, &weights, t[8], t[0], t[1], t[4], t[5], t[6], t[9], t[10], t[11], &gradients,
        space, error)
    }
  }

  private static func withSelf(
    _ error: ErrorPointer, _ body: (autoep_comm) -> autoep_status
  ) -> autoep_status {
    var comm: autoep_comm = 0
    let status = autoep_comm_create_self(&comm, error)
    guard status == AUTOEP_OK else { return status }
    defer { _ = autoep_comm_free(comm, nil) }
    return body(comm)
  }

  private static func withPlan(
    _ idx: UnsafePointer<autoep_tensor>?, _ context: autoep_context, _ error: ErrorPointer,
    _ body: (autoep_plan) -> autoep_status
  ) -> autoep_status {
    withSelf(error) { comm in
      var config = autoep_experts_config(
        struct_size: MemoryLayout<autoep_experts_config>.size, num_experts: 4, hidden_size: 5,
        ffn_size: 3, dtype: autoep_dtype(AUTOEP_F32), activation: autoep_activation(AUTOEP_SILU),
        gate: autoep_gate(AUTOEP_GATE_CONCATENATED), weight_layout: outIn,
        score_apply: autoep_score_apply(AUTOEP_SCORE_BEFORE), swiglu_alpha: 1, swiglu_limit: 1)
      var plan: autoep_plan = 0
      var info = autoep_plan_info()
      info.struct_size = MemoryLayout<autoep_plan_info>.size
      let status = autoep_experts_plan(context, comm, &config, idx, &plan, &info, error)
      guard status == AUTOEP_OK else { return status }
      defer { _ = autoep_plan_free(plan, nil) }
      return body(plan)
    }
  }
}
