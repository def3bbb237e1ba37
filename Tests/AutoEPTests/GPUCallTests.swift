import AutoEP
import CAutoEP
import FakeCUDA
import Testing

/// The calls on a context of a GPU, as far as a driver that does nothing can tell: what they check,
/// and that all they launch compiles and is launched as the driver wants it.
@Suite(.enabled(if: InstalledNVRTC.path != nil, Comment(rawValue: InstalledNVRTC.advice)))
struct GPUCallTests {
  /// The calls that a GPU has; T = 3, E = 4, K = 2, N = 6, H = 5, F = 3.
  static let calls = Call.all.filter { !$0.takesAnyShape && !$0.name.contains("experts") } + [local]

  private static let local = Call(
    name: "autoep_local_experts_forward and _backward",
    tensors: [
      Call.Argument("x", [3, 5]), Call.Argument("topk_idx", [3, 2], AUTOEP_I64),
      Call.Argument("topk_weights", [3, 2]), Call.Argument("weights.gate_up", [4, 6, 5]),
      Call.Argument("weights.gate_up_bias", [4, 6], isOptional: true),
      Call.Argument("weights.down", [4, 5, 3]),
      Call.Argument("weights.down_bias", [4, 5], isOptional: true),
      Call.Argument("hidden", [6, 6]),
      Call.Argument("tokens_per_expert", [4], AUTOEP_I32, isOptional: true),
      Call.Argument("y", [3, 5]), Call.Argument("grad_y", [3, 5]),
      Call.Argument("grad_x", [3, 5], isOptional: true),
      Call.Argument("grad_topk_weights", [3, 2], isOptional: true),
      Call.Argument("grad_weights.gate_up", [4, 6, 5], isOptional: true),
      Call.Argument("grad_weights.gate_up_bias", [4, 6], isOptional: true),
      Call.Argument("grad_weights.down", [4, 5, 3], isOptional: true),
      Call.Argument("grad_weights.down_bias", [4, 5], isOptional: true),
      Call.Argument("grad_hidden", [6, 6]), Call.Argument("activated", [6, 3]),
    ]
  ) { t, context, error in
    var config = config(AUTOEP_F32)
    var info = autoep_local_experts_info()
    info.struct_size = MemoryLayout<autoep_local_experts_info>.size
    var status = autoep_local_experts_describe(context, &config, 3, 2, &info, error)
    guard status == AUTOEP_OK else { return status }
    let space = TestTensor([4096], AUTOEP_F64)
    let routing = TestTensor([4096], AUTOEP_F64)
    let size = MemoryLayout<autoep_experts_weights>.size
    var weights = autoep_experts_weights(
      struct_size: size, gate_up: t[3], gate_up_bias: t[4], down: t[5], down_bias: t[6])
    var gradients = autoep_experts_weights(
      struct_size: size, gate_up: t[13], gate_up_bias: t[14], down: t[15], down_bias: t[16])
    let (routed, workspace) = (routing.pointer.pointee.data, space.pointer.pointee.data)
    return withExtendedLifetime((space, routing)) {
      status = autoep_local_experts_forward(
        context, &config, &weights, t[0], t[1], t[2], routed, t[7], t[8], t[9], workspace, error)
      guard status == AUTOEP_OK else { return status }
      return autoep_local_experts_backward(
        context, &config, &weights, t[10], t[0], t[2], routed, t[7], t[17], t[18], t[11], t[12],
        &gradients, 0, nil, workspace, error)
    }
  }

  private static func config(_ dtype: Int) -> autoep_experts_config {
    autoep_experts_config(
      struct_size: MemoryLayout<autoep_experts_config>.size, num_experts: 4, hidden_size: 5,
      ffn_size: 3, dtype: autoep_dtype(dtype), activation: autoep_activation(AUTOEP_SILU),
      gate: autoep_gate(AUTOEP_GATE_CONCATENATED),
      weight_layout: autoep_weight_layout(AUTOEP_WEIGHT_OUT_IN),
      score_apply: autoep_score_apply(AUTOEP_SCORE_AFTER), swiglu_alpha: 1, swiglu_limit: 1)
  }

  @Test("every tensor of every function, spoiled in every way", arguments: calls)
  func tensors(item: Call) throws {
    let context = try FakeGPU.shared.get().handle
    try item.spoilEachTensor(context, .cuda)
    try item(context) { tensors in
      for tensor in tensors { _ = tensor.describe(Place.cuda.put) }
      return tensors.map(\.pointer)
    }
  }

  @Test("a router's forward launches the product, and then the choice, on counts of zero")
  func routerForward() throws {
    let gpu = try FakeGPU.shared.get()
    let forward = try #require(Call.all.first { $0.name == "autoep_router_forward" })
    try forward(gpu.handle) { tensors in
      for tensor in tensors { _ = tensor.describe(Place.cuda.put) }
      return tensors.map(\.pointer)
    }
    #expect(gpu.launched(ago: 2) == "router_logits")
    #expect(gpu.launched(ago: 1) == "clear")
    #expect(gpu.launched(ago: 0) == "route")
  }

  @Test("what local experts are asked for: sizes and types")
  func describe() throws {
    let context = try FakeGPU.shared.get().handle
    var info = autoep_local_experts_info()
    info.struct_size = MemoryLayout<autoep_local_experts_info>.size
    func describe(_ dtype: Int, _ tokens: Int64, _ topK: Int32) throws {
      var config = Self.config(dtype)
      try call { autoep_local_experts_describe(context, &config, tokens, topK, &info, $0) }
    }
    for dtype in [AUTOEP_F32, AUTOEP_BF16, AUTOEP_F16] { try describe(dtype, 100, 2) }
    // f16: 200 rows of H = 5, F = 3 and G = 6, each rounded up to 64 bytes; the sort's counts.
    #expect(info.forward_workspace_bytes == 2048 + 1216 + 2560 + 64)
    #expect(info.backward_workspace_bytes == 2048)
    #expect(info.backward_scratch_bytes == 0)
    #expect(info.routing_bytes % 64 == 0)
    try describe(AUTOEP_F32, 0, 1)
    #expect(info.backward_workspace_bytes == 0)
    expectFailure(AUTOEP_INVALID_ARGUMENT, "config.dtype") { try describe(AUTOEP_F64, 3, 2) }
    expectFailure(AUTOEP_INVALID_ARGUMENT, "num_tokens", "-1") { try describe(AUTOEP_F32, -1, 2) }
    expectFailure(AUTOEP_INVALID_ARGUMENT, "top_k") { try describe(AUTOEP_F32, 3, 0) }
    expectFailure(AUTOEP_INVALID_ARGUMENT, "T * K") { try describe(AUTOEP_F32, 1 << 30, 2) }
    info.struct_size = 8
    expectFailure(AUTOEP_INVALID_ARGUMENT, "info.struct_size") { try describe(AUTOEP_F32, 3, 2) }
  }

  @Test("several ranks, and numbers of a context")
  func others() throws {
    let context = try FakeGPU.shared.get().handle
    let plan = try #require(Call.all.first { $0.name == "autoep_experts_plan" })
    expectFailure(AUTOEP_UNSUPPORTED, "CUDA device 0", "autoep_local_experts_forward") {
      try plan(context)
    }
    var threads: Int32 = -1
    try call { autoep_context_num_threads(context, &threads, $0) }
    #expect(threads == 0)
    var config = autoep_context_config(
      struct_size: MemoryLayout<autoep_context_config>.size,
      device_type: Int32(AUTOEP_DEVICE_CUDA), device_id: 7, num_threads: 0, stream: nil,
      nvrtc_path: nil)
    var other: autoep_context = 0
    expectFailure(AUTOEP_INVALID_ARGUMENT, "no CUDA device 7") {
      try call { autoep_context_create(&config, &other, $0) }
    }
  }
}
