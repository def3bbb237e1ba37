import AutoEP
import AutoEPCore
import CAutoEP
import Testing

/// A valid call of a function that takes tensors, which tests invalidate one at a time.
struct Call: Sendable, CustomTestStringConvertible {
  let name: String
  /// The tensors, in the order in which `run` takes them.
  let tensors: [Argument]
  /// Calls the function; NULL stands for an omitted tensor.
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
      _ name: String, _ shape: [Int], _ dtype: Int = AUTOEP_DTYPE_F32, values: [Double]? = nil,
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
  /// Whether the function can detect a wrong size.
  func bindsSize(of argument: Argument) -> Bool {
    // Only T is free in a plan; K is the layer's.
    !takesAnyShape && (name, argument.name) != ("autoep_router_z_loss", "logits")
  }

  /// Makes the tensors, applies `change`, and calls the function.
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
  private static func route<Result>(
    _ body: (UnsafePointer<autoep_route_config>) -> Result
  ) -> Result {
    var config = sized(autoep_route_config()) {
      $0.score = autoep_score(AUTOEP_SCORE_SOFTMAX)
      ($0.top_k, $0.normalize, $0.scale) = (2, 1, 1)
      ($0.num_groups, $0.topk_groups) = (1, 1)
    }
    return body(&config)
  }

  private static func routeArgs(
    _ config: UnsafePointer<autoep_route_config>, _ t: ArraySlice<UnsafePointer<autoep_tensor>?>
  ) -> autoep_route_args {
    let t = Array(t)
    return sized(autoep_route_args()) {
      $0.config = config
      ($0.logits, $0.selection_bias) = (t[0], t[1])
      ($0.topk_idx, $0.topk_weights, $0.tokens_per_expert) = (t[2], t[3], t[4])
    }
  }

  private static let slots = [0.0, 3, 1, 4, 2, 5]
  private static let choices = [0.0, 1, 2, 3, 1, 0]
  private static let outIn = autoep_layout(AUTOEP_LAYOUT_OUT_IN)

  private static let routing = [
    Argument("logits", [3, 4]), Argument("selection_bias", [4], isOptional: true),
    Argument("topk_idx", [3, 2], AUTOEP_DTYPE_I32), Argument("topk_weights", [3, 2]),
    Argument("tokens_per_expert", [4], AUTOEP_DTYPE_I32, isOptional: true),
  ]

  /// T = 3, E = 4, K = 2, N = 6, H = 5, F = 3.
  static let all = [
    Call(name: "autoep_route", tensors: routing) { t, context, error in
      route { config in
        var args = routeArgs(config, t[0...])
        return autoep_route(context, &args, error)
      }
    },
    Call(
      name: "autoep_router_forward",
      tensors: [Argument("x", [3, 5]), Argument("router", [4, 5])] + routing
    ) { t, context, error in
      route { config in
        var args = sized(autoep_router_forward_args()) {
          ($0.x, $0.router, $0.route) = (t[0], t[1], routeArgs(config, t[2...]))
        }
        return autoep_router_forward(context, &args, error)
      }
    },
    Call(
      name: "autoep_route_backward",
      tensors: [
        Argument("logits", [3, 4]),
        Argument("topk_idx", [3, 2], AUTOEP_DTYPE_I32, values: choices),
        Argument("grad_topk_weights", [3, 2]), Argument("grad_logits", [3, 4]),
      ]
    ) { t, context, error in
      route { config in
        var args = sized(autoep_route_backward_args()) {
          ($0.config, $0.logits, $0.topk_idx) = (config, t[0], t[1])
          ($0.grad_topk_weights, $0.grad_logits) = (t[2], t[3])
        }
        return autoep_route_backward(context, &args, error)
      }
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
      t, context, error in
      var args = sized(autoep_jitter_args()) {
        ($0.x, $0.epsilon, $0.seed, $0.y) = (t[0], 0.1, 7, t[1])
      }
      return autoep_jitter(context, &args, error)
    },
    Call(
      name: "autoep_sort_by_expert",
      tensors: [
        Argument("topk_idx", [3, 2], AUTOEP_DTYPE_I64, values: choices),
        Argument("row_of_slot", [3, 2], AUTOEP_DTYPE_I32),
        Argument("tokens_per_expert", [4], AUTOEP_DTYPE_I32),
      ]
    ) { t, context, error in
      var args = sized(autoep_sort_args()) {
        ($0.topk_idx, $0.num_experts) = (t[0], 4)
        ($0.row_of_slot, $0.tokens_per_expert) = (t[1], t[2])
      }
      return autoep_sort_by_expert(context, &args, error)
    },
    Call(
      name: "autoep_permute",
      tensors: [
        Argument("x", [3, 5]), Argument("row_of_slot", [3, 2], AUTOEP_DTYPE_I32, values: slots),
        Argument("rows", [6, 5]),
      ]
    ) { t, context, error in autoep_permute(context, t[0], t[1], t[2], error) },
    Call(
      name: "autoep_permute_backward",
      tensors: [
        Argument("grad_rows", [6, 5]),
        Argument("row_of_slot", [3, 2], AUTOEP_DTYPE_I32, values: slots),
        Argument("grad_x", [3, 5]),
      ]
    ) { t, context, error in autoep_permute_backward(context, t[0], t[1], t[2], error) },
    Call(
      name: "autoep_unpermute",
      tensors: [
        Argument("rows", [6, 5]),
        Argument("row_of_slot", [3, 2], AUTOEP_DTYPE_I32, values: slots),
        Argument("topk_weights", [3, 2], isOptional: true), Argument("y", [3, 5]),
      ]
    ) { t, context, error in
      var args = sized(autoep_unpermute_args()) {
        ($0.rows, $0.row_of_slot, $0.topk_weights, $0.y) = (t[0], t[1], t[2], t[3])
      }
      return autoep_unpermute(context, &args, error)
    },
    Call(
      name: "autoep_unpermute_backward",
      tensors: [
        Argument("grad_y", [3, 5]), Argument("rows", [6, 5]),
        Argument("row_of_slot", [3, 2], AUTOEP_DTYPE_I32, values: slots),
        Argument("topk_weights", [3, 2]), Argument("grad_rows", [6, 5]),
        Argument("grad_topk_weights", [3, 2]),
      ]
    ) { t, context, error in
      var args = sized(autoep_unpermute_backward_args()) {
        ($0.grad_y, $0.rows, $0.row_of_slot, $0.topk_weights) = (t[0], t[1], t[2], t[3])
        ($0.grad_rows, $0.grad_topk_weights) = (t[4], t[5])
      }
      return autoep_unpermute_backward(context, &args, error)
    },
    Call(
      name: "autoep_grouped_gemm",
      tensors: [
        Argument("rows", [6, 5]), Argument("weights", [4, 3, 5]),
        Argument("rows_per_group", [4], AUTOEP_DTYPE_I64, values: [1, 0, 3, 2]),
        Argument("out", [6, 3]),
      ]
    ) { t, context, error in
      var args = sized(autoep_grouped_gemm_args()) {
        ($0.rows, $0.weights, $0.layout) = (t[0], t[1], outIn)
        ($0.rows_per_group, $0.out) = (t[2], t[3])
      }
      return autoep_grouped_gemm(context, &args, error)
    },
    Call(
      name: "autoep_grouped_gemm_weight_grad",
      tensors: [
        Argument("grad_out", [6, 3]), Argument("rows", [6, 5]),
        Argument("rows_per_group", [4], AUTOEP_DTYPE_I32, values: [1, 0, 3, 2]),
        Argument("grad_weights", [4, 3, 5]),
      ]
    ) { t, context, error in
      var args = sized(autoep_grouped_gemm_weight_grad_args()) {
        ($0.grad_out, $0.rows, $0.layout) = (t[0], t[1], outIn)
        ($0.rows_per_group, $0.grad_weights) = (t[2], t[3])
      }
      return autoep_grouped_gemm_weight_grad(context, &args, error)
    },
    Call(
      name: "autoep_all_to_all", tensors: [Argument("send", [3, 5]), Argument("receive", [3, 5])]
    ) { t, _, error in
      withSelf(error) { comm in
        let rows: [Int64] = [3]
        return rows.withUnsafeBufferPointer { rows in
          var args = sized(autoep_all_to_all_args()) {
            ($0.send, $0.send_rows) = (t[0], rows.baseAddress)
            ($0.receive, $0.receive_rows) = (t[1], rows.baseAddress)
          }
          return autoep_all_to_all(comm, &args, error)
        }
      }
    },
    Call(name: "autoep_all_reduce", tensors: [Argument("data", [3, 5])]) {
      t, _, error in withSelf(error) { autoep_all_reduce($0, t[0], error) }
    },
    Call(
      name: "autoep_layer_plan",
      tensors: [
        Argument("topk_idx", [3, 2], AUTOEP_DTYPE_I64, values: choices),
        Argument("rows_per_expert", [4], AUTOEP_DTYPE_I32, isOptional: true),
      ]
    ) { t, context, error in
      withLayer(context, error) { layer in
        var args = sized(autoep_plan_args()) {
          ($0.topk_idx, $0.rows_per_expert) = (t[0], t[1])
          ($0.plan, $0.workspace) = (layer.plan, layer.workspace)
        }
        var info = sized(autoep_plan_info())
        return autoep_layer_plan(context, layer.handle, &args, &info, error)
      }
    },
    layer, dispatch,
  ]

  /// A layer whose weights multiply the input: a forward, then its backward.
  private static let layer = Call(
    name: "autoep_layer_forward and _backward",
    tensors: [
      Argument("x", [3, 5]),
      Argument("topk_idx", [3, 2], AUTOEP_DTYPE_I64, values: choices, isOptional: true),
      Argument("topk_weights", [3, 2]), Argument("weights.gate_up", [4, 6, 5]),
      Argument("weights.gate_up_bias", [4, 6], isOptional: true),
      Argument("weights.down", [4, 5, 3]),
      Argument("weights.down_bias", [4, 5], isOptional: true),
      Argument("tokens_per_expert", [4], AUTOEP_DTYPE_I32, isOptional: true),
      Argument("y", [3, 5]), Argument("grad_y", [3, 5]),
      Argument("grad_x", [3, 5], isOptional: true),
      Argument("grad_topk_weights", [3, 2], isOptional: true),
      Argument("grad_weights.gate_up", [4, 6, 5], isOptional: true),
      Argument("grad_weights.gate_up_bias", [4, 6], isOptional: true),
      Argument("grad_weights.down", [4, 5, 3], isOptional: true),
      Argument("grad_weights.down_bias", [4, 5], isOptional: true),
    ]
  ) { t, context, error in
    withLayer(context, error) { layer in
      var weights = parameters(t[3], t[4], t[5], t[6])
      var gradients = parameters(t[12], t[13], t[14], t[15])
      return withUnsafePointer(to: &weights) { weights in
        withUnsafePointer(to: &gradients) { gradients in
          var forward = sized(autoep_forward_args()) {
            ($0.weights, $0.x, $0.topk_idx, $0.topk_weights) = (weights, t[0], t[1], t[2])
            ($0.tokens_per_expert, $0.y) = (t[7], t[8])
            ($0.plan, $0.saved, $0.workspace) = (layer.plan, layer.saved, layer.workspace)
          }
          let status = autoep_layer_forward(context, layer.handle, &forward, error)
          guard status == AUTOEP_OK else { return status }
          var backward = sized(autoep_backward_args()) {
            ($0.weights, $0.grad_y, $0.x, $0.topk_weights) = (weights, t[9], t[0], t[2])
            ($0.grad_x, $0.grad_topk_weights, $0.grad_weights) = (t[10], t[11], gradients)
            ($0.plan, $0.saved, $0.workspace) = (layer.plan, layer.saved, layer.workspace)
          }
          return autoep_layer_backward(context, layer.handle, &backward, error)
        }
      }
    }
  }

  private static let dispatch = Call(
    name: "autoep_dispatch, autoep_combine and _backward",
    tensors: [
      Argument("x", [3, 5]), Argument("rows", [6, 5]), Argument("topk_weights", [3, 2]),
      Argument("y", [3, 5]), Argument("grad_y", [3, 5]), Argument("grad_rows", [6, 5]),
      Argument("grad_topk_weights", [3, 2]),
    ]
  ) { t, context, error in
    withLayer(context, error) { layer in
      let idx = TestTensor([3, 2], AUTOEP_DTYPE_I64, choices).describe(layer.place.put)
      return withExtendedLifetime(idx) {
        var plan = sized(autoep_plan_args()) {
          ($0.topk_idx, $0.plan, $0.workspace) = (idx.pointer, layer.plan, layer.workspace)
        }
        var info = sized(autoep_plan_info())
        var status = autoep_layer_plan(context, layer.handle, &plan, &info, error)
        guard status == AUTOEP_OK else { return status }
        var dispatch = sized(autoep_dispatch_args()) {
          ($0.plan, $0.x, $0.rows, $0.workspace) = (layer.plan, t[0], t[1], layer.workspace)
        }
        status = autoep_dispatch(context, layer.handle, &dispatch, error)
        guard status == AUTOEP_OK else { return status }
        var combine = sized(autoep_combine_args()) {
          ($0.plan, $0.rows, $0.topk_weights) = (layer.plan, t[1], t[2])
          ($0.y, $0.workspace) = (t[3], layer.workspace)
        }
        status = t[2] == nil ? status : autoep_combine(context, layer.handle, &combine, error)
        guard status == AUTOEP_OK else { return status }
        var backward = sized(autoep_combine_backward_args()) {
          ($0.plan, $0.grad_y, $0.rows, $0.topk_weights) = (layer.plan, t[4], t[1], t[2])
          ($0.grad_rows, $0.grad_topk_weights, $0.workspace) = (t[5], t[6], layer.workspace)
        }
        return autoep_combine_backward(context, layer.handle, &backward, error)
      }
    }
  }

  private static func parameters(
    _ gateUp: UnsafePointer<autoep_tensor>?, _ gateUpBias: UnsafePointer<autoep_tensor>?,
    _ down: UnsafePointer<autoep_tensor>?, _ downBias: UnsafePointer<autoep_tensor>?
  ) -> autoep_experts_weights {
    sized(autoep_experts_weights()) {
      ($0.gate_up, $0.gate_up_bias, $0.down, $0.down_bias) = (gateUp, gateUpBias, down, downBias)
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

  /// A layer and memory for its passes over 3 tokens.
  private struct LayerMemory {
    let handle: autoep_layer
    let place: Place
    let plan: autoep_buffer
    let saved: autoep_buffer
    let workspace: autoep_buffer
  }

  private static func withLayer(
    _ context: autoep_context, _ error: ErrorPointer, _ body: (LayerMemory) -> autoep_status
  ) -> autoep_status {
    var configuration = ExpertsConfiguration(
      numExperts: 4, topK: 2, hiddenSize: 5, ffnSize: 3, dtype: .f32)
    configuration.applyWeights = .before
    var config = configuration.abi()
    var layer: autoep_layer = 0
    var info = sized(autoep_layer_info())
    let status = autoep_layer_create(context, &config, &layer, &info, error)
    guard status == AUTOEP_OK else { return status }
    defer { _ = autoep_layer_free(layer, nil) }
    let plan = TestBuffer(info.plan_bytes + 3 * info.plan_bytes_per_token)
    let saved = TestBuffer(info.saved_bytes + 6 * info.saved_bytes_per_row)
    let workspace = TestBuffer(32 << 10)
    var threads: Int32 = 0
    _ = autoep_context_num_threads(context, &threads, nil)
    return withExtendedLifetime((plan, saved, workspace)) {
      body(
        LayerMemory(
          handle: layer, place: threads == 0 ? .cuda : .cpu, plan: plan.buffer,
          saved: saved.buffer, workspace: workspace.buffer))
    }
  }
}
