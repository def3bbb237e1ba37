import AutoEP
import CAutoEP
import Testing

/// The experts on one GPU, as far as a machine without one can tell.
@Suite struct LocalExpertsTests {
  private var experts = autoep_experts_config(
    struct_size: MemoryLayout<autoep_experts_config>.size, num_experts: 4, hidden_size: 5,
    ffn_size: 3, dtype: autoep_dtype(AUTOEP_F32), activation: autoep_activation(AUTOEP_SILU),
    gate: autoep_gate(AUTOEP_GATE_CONCATENATED),
    weight_layout: autoep_weight_layout(AUTOEP_WEIGHT_OUT_IN),
    score_apply: autoep_score_apply(AUTOEP_SCORE_AFTER), swiglu_alpha: 1, swiglu_limit: 1)

  @Test("a CPU context is refused, with what to use instead")
  mutating func cpuContext() throws {
    let context = try TestContext()
    var info = autoep_local_experts_info()
    info.struct_size = MemoryLayout<autoep_local_experts_info>.size
    let tensor = TestTensor([1, 1], AUTOEP_F32)
    let t = tensor.pointer
    var weights = autoep_experts_weights(
      struct_size: MemoryLayout<autoep_experts_weights>.size, gate_up: t, gate_up_bias: nil,
      down: t, down_bias: nil)
    expectFailure(AUTOEP_UNSUPPORTED, "the CPU", "autoep_experts_plan") {
      try call {
        autoep_local_experts_describe(context.handle, &experts, 3, 2, &info, $0)
      }
    }
    expectFailure(AUTOEP_UNSUPPORTED, "the CPU", "autoep_experts_plan") {
      try call {
        autoep_local_experts_forward(
          context.handle, &experts, &weights, t, t, t, nil, t, nil, t, nil, $0)
      }
    }
    expectFailure(AUTOEP_UNSUPPORTED, "the CPU", "autoep_experts_plan") {
      try call {
        autoep_local_experts_backward(
          context.handle, &experts, &weights, t, t, t, nil, t, t, t, nil, nil, &weights, 0,
          nil, nil, $0)
      }
    }
    withExtendedLifetime(tensor) {}
  }

  @Test("handles that are no contexts are refused")
  mutating func handles() throws {
    var info = autoep_local_experts_info()
    info.struct_size = MemoryLayout<autoep_local_experts_info>.size
    expectFailure(AUTOEP_INVALID_HANDLE, "7") {
      try call { autoep_local_experts_describe(7, &experts, 3, 2, &info, $0) }
    }
  }

  @Test("a context of a GPU: there is one, or the error names what is missing")
  func cudaContext() throws {
    var config = autoep_context_config(
      struct_size: MemoryLayout<autoep_context_config>.size,
      device_type: Int32(AUTOEP_DEVICE_CUDA), device_id: 0, num_threads: 0, stream: nil,
      nvrtc_path: nil)
    var context: autoep_context = 0
    do {
      try call { autoep_context_create(&config, &context, $0) }
      try call { autoep_context_free(context, $0) }
    } catch let error as ABIError {
      let expected =
        error.status == AUTOEP_MISSING_LIBRARY ? ["libcuda.so.1", "libnvrtc"] : ["NO_DEVICE"]
      #expect(expected.contains { error.message.contains($0) }, "\(error)")
    }
    config.num_threads = 2
    expectFailure(AUTOEP_INVALID_ARGUMENT, "num_threads") {
      try call { autoep_context_create(&config, &context, $0) }
    }
  }
}
