import AutoEP
import AutoEPCore
import CAutoEP
import Testing

/// Every invalid input gives a status and a message.
@Suite struct BadInputTests {
  @Test("every tensor of every function, invalidated in every way", arguments: Call.all)
  func tensors(item: Call) throws {
    let context = try TestContext()
    try item.spoilEachTensor(context.handle, .cpu)
    // The context still works.
    try item(context.handle)
  }

  @Test("freed, foreign and invented handles", arguments: Call.all)
  func handles(item: Call) throws {
    var freed: autoep_context = 0
    try call { autoep_context_create(nil, &freed, $0) }
    try call { autoep_context_free(freed, $0) }
    var comm: autoep_comm = 0
    try call { autoep_comm_create_self(&comm, $0) }
    defer { _ = autoep_comm_free(comm, nil) }
    for handle in [freed, comm, 0, UInt64.max] where !item.takesAnyShape {
      expectFailure(AUTOEP_ERROR_INVALID_HANDLE, "\(handle)") { try item(handle) }
    }
    let bad: [autoep_comm] = [freed, 0]
    for handle in bad {
      expectFailure(AUTOEP_ERROR_INVALID_HANDLE) { try call { autoep_barrier(handle, $0) } }
      expectFailure(AUTOEP_ERROR_INVALID_HANDLE) { try call { autoep_comm_free(handle, $0) } }
      expectFailure(AUTOEP_ERROR_INVALID_HANDLE) { try call { autoep_layer_free(handle, $0) } }
      expectFailure(AUTOEP_ERROR_INVALID_HANDLE) {
        try call { autoep_comm_abort(handle, nil, $0) }
      }
    }
  }

  @Test("an error may be NULL, and a success leaves it unchanged")
  func errors() throws {
    #expect(autoep_context_free(12345, nil) == AUTOEP_ERROR_INVALID_HANDLE)
    var error = sized(autoep_error()) { $0.status = 99 }
    var context: autoep_context = 0
    #expect(autoep_context_create(nil, &context, &error) == AUTOEP_OK)
    #expect(autoep_context_free(context, &error) == AUTOEP_OK)
    #expect(error.status == 99)
    // A struct whose size is not set is not written.
    error.struct_size = 0
    #expect(autoep_context_free(12345, &error) == AUTOEP_ERROR_INVALID_HANDLE)
    #expect(error.status == 99)
  }

  @Test("NaN and infinite logits name the token and the expert")
  func nonFiniteLogits() throws {
    let context = try TestContext()
    let route = Call.all[0]
    for (value, text) in [(Double.nan, "nan"), (Double.infinity, "inf")] {
      expectFailure(AUTOEP_ERROR_INVALID_ARGUMENT, text, "token 1", "expert 2") {
        try route(context.handle) { tensors in
          var values = [Double](repeating: 0, count: 12)
          values[6] = value
          tensors[0].set(values)
          return tensors.map(\.pointer)
        }
      }
    }
  }

  @Test("choices and rows out of range", arguments: [-2.0, 4, 6, 2_147_483_647, -2_147_483_648])
  func badIndices(value: Double) throws {
    let context = try TestContext()
    for item in Call.all {
      for (index, argument) in item.tensors.enumerated() {
        guard ["topk_idx", "row_of_slot"].contains(argument.name), argument.values[0] != 0.5,
          argument.name == "topk_idx" || value != 4
        else { continue }
        expectFailure(AUTOEP_ERROR_INVALID_ARGUMENT, argument.name, "\(Int(value))") {
          try item(context.handle) { tensors in
            var values = argument.values
            values[3] = value
            tensors[index].set(values)
            return tensors.map(\.pointer)
          }
        }
      }
    }
  }

  @Test("configs: sizes, choices and numbers out of range")
  func configs() throws {
    var context: autoep_context = 0
    var config = autoep_context_config(
      struct_size: 3, device_type: Int32(AUTOEP_DEVICE_CPU), device_id: 0, num_threads: 0,
      stream: nil, nvrtc_path: nil)
    expectFailure(AUTOEP_ERROR_INVALID_ARGUMENT, "struct_size", "3") {
      try call { autoep_context_create(&config, &context, $0) }
    }
    config.struct_size = MemoryLayout<autoep_context_config>.size
    config.num_threads = -1
    expectFailure(AUTOEP_ERROR_INVALID_ARGUMENT, "num_threads", "-1") {
      try call { autoep_context_create(&config, &context, $0) }
    }
    config.num_threads = 0
    config.stream = UnsafeMutableRawPointer(bitPattern: 64)
    expectFailure(AUTOEP_ERROR_INVALID_ARGUMENT, "stream") {
      try call { autoep_context_create(&config, &context, $0) }
    }
    // The size in an older header, which has no stream.
    config.struct_size = 24
    try call { autoep_context_create(&config, &context, $0) }
    try call { autoep_context_free(context, $0) }
    config.device_type = 3
    expectFailure(AUTOEP_ERROR_UNSUPPORTED, "device_type") {
      try call { autoep_context_create(&config, &context, $0) }
    }
    expectFailure(AUTOEP_ERROR_INVALID_ARGUMENT, "context", "NULL") {
      try call { autoep_context_create(nil, nil, $0) }
    }
    var comms: [autoep_comm] = [0]
    for size in [Int32.min, 0, Int32.max] {
      expectFailure(AUTOEP_ERROR_INVALID_ARGUMENT, "size") {
        try call { autoep_comm_create_local(size, 1, &comms, $0) }
      }
    }
    for timeout in [0, -1, Double.nan, Double.infinity] {
      expectFailure(AUTOEP_ERROR_INVALID_ARGUMENT, "timeout") {
        try call { autoep_comm_create_local(1, timeout, &comms, $0) }
      }
    }
    "/nowhere/libautoep_mpi.so".withCString { path in
      var config = sized(autoep_mpi_config()) {
        ($0.library_path, $0.timeout_seconds) = (path, 1)
      }
      expectFailure(AUTOEP_ERROR_MISSING_LIBRARY, "/nowhere/libautoep_mpi.so") {
        try call { autoep_comm_create_mpi(&config, &comms, $0) }
      }
      config.timeout_seconds = 0
      expectFailure(AUTOEP_ERROR_INVALID_ARGUMENT, "timeout") {
        try call { autoep_comm_create_mpi(&config, &comms, $0) }
      }
    }
  }

  @Test("NCCL: configs out of range, and no library")
  func nccl() throws {
    var comm: autoep_comm = 0
    let id = [UInt8](repeating: 7, count: Int(AUTOEP_NCCL_ID_SIZE))
    try id.withUnsafeBufferPointer { id in
      func refuses(
        _ status: Int, _ name: String, _ given: String,
        change: (inout autoep_nccl_config) -> Void
      ) throws {
        var config = sized(autoep_nccl_config()) {
          ($0.unique_id, $0.rank, $0.size) = (id.baseAddress, 1, 2)
          $0.timeout_seconds = 1
        }
        change(&config)
        expectFailure(status, name, given) {
          try call { autoep_comm_create_nccl(&config, &comm, $0) }
        }
      }
      let invalid = AUTOEP_ERROR_INVALID_ARGUMENT
      try refuses(invalid, "struct_size", "8") { $0.struct_size = 8 }
      try refuses(invalid, "unique_id", "NULL") { $0.unique_id = nil }
      try refuses(invalid, "rank", "is 2 of 2") { $0.rank = 2 }
      try refuses(invalid, "rank", "is -1 of 2") { $0.rank = -1 }
      try refuses(invalid, "rank", "is 1 of 0") { $0.size = 0 }
      try refuses(invalid, "timeout", "nan") { $0.timeout_seconds = .nan }
      try "/nowhere/libnccl.so.2".withCString { path in
        try refuses(AUTOEP_ERROR_MISSING_LIBRARY, "/nowhere/libnccl.so.2", "nvidia-nccl") {
          $0.library_path = path
        }
        var bytes = id.map { $0 }
        expectFailure(AUTOEP_ERROR_MISSING_LIBRARY, "/nowhere/libnccl.so.2") {
          try call { autoep_nccl_unique_id(path, &bytes, $0) }
        }
      }
      expectFailure(invalid, "unique_id", "NULL") {
        try call { autoep_nccl_unique_id(nil, nil, $0) }
      }
    }
  }

  @Test("push: configs out of range, and control communicators that are none")
  func push() throws {
    var (control, comm): (autoep_comm, autoep_comm) = (0, 0)
    try call { autoep_comm_create_self(&control, $0) }
    defer { _ = autoep_comm_free(control, nil) }
    func refuses(
      _ status: Int, _ name: String, _ given: String,
      change: (inout autoep_push_config) -> Void
    ) {
      var config = sized(autoep_push_config()) {
        ($0.control, $0.timeout_seconds) = (control, 1)
      }
      change(&config)
      expectFailure(status, name, given) {
        try call { autoep_comm_create_push(&config, &comm, $0) }
      }
    }
    let invalid = AUTOEP_ERROR_INVALID_ARGUMENT
    refuses(invalid, "struct_size", "8") { $0.struct_size = 8 }
    refuses(AUTOEP_ERROR_INVALID_HANDLE, "communicator", "0") { $0.control = 0 }
    refuses(invalid, "rank 0 of 1: timeout", "nan") { $0.timeout_seconds = .nan }
    refuses(invalid, "slots", "-1 slots") { $0.slots = -1 }
    refuses(invalid, "bytes", "\(Int64.max) bytes") { $0.chunk_bytes = .max }
    expectFailure(invalid, "config", "NULL") {
      try call { autoep_comm_create_push(nil, &comm, $0) }
    }
  }

  private typealias RouteChange = (inout autoep_route_config) -> Void

  @Test("router configs")
  func routers() throws {
    let context = try TestContext()
    let changes: [(String, RouteChange)] = [
      ("score", { $0.score = 9 }), ("top_k", { $0.top_k = 0 }), ("top_k", { $0.top_k = 5 }),
      ("scale", { $0.scale = .nan }), ("scale", { $0.scale = 0 }),
      ("normalize", { $0.normalize = 2 }), ("struct_size", { $0.struct_size = 8 }),
      ("normalize_epsilon", { ($0.normalize, $0.normalize_epsilon) = (1, -1) }),
      ("group_score", { $0.group_score = 5 }),
      ("num_groups", { ($0.group_score, $0.num_groups) = (1, 3) }),
      ("num_groups", { ($0.group_score, $0.num_groups) = (1, 0) }),
      ("topk_groups", { ($0.group_score, $0.num_groups, $0.topk_groups) = (1, 2, 3) }),
      ("top_k", { ($0.group_score, $0.num_groups, $0.topk_groups, $0.top_k) = (1, 4, 1, 2) }),
      (
        "sinkhorn_iterations",
        { ($0.score, $0.training) = (autoep_score(AUTOEP_SCORE_SINKHORN), 1) }
      ),
    ]
    for (text, change) in changes {
      var config = autoep_route_config(
        struct_size: MemoryLayout<autoep_route_config>.size,
        score: autoep_score(AUTOEP_SCORE_SOFTMAX), top_k: 2, normalize: 0, normalize_epsilon: 0,
        scale: 1, group_score: 0, num_groups: 1, topk_groups: 1, training: 0,
        sinkhorn_iterations: 0)
      change(&config)
      let topK = Int(config.top_k)
      let logits = TestTensor([3, 4], AUTOEP_DTYPE_F32, Array(repeating: 0, count: 12))
      let idx = TestTensor([3, max(topK, 1)], AUTOEP_DTYPE_I32)
      let weights = TestTensor([3, max(topK, 1)], AUTOEP_DTYPE_F32)
      let load = TestTensor([4], AUTOEP_DTYPE_I32)
      expectFailure(AUTOEP_ERROR_INVALID_ARGUMENT, "config.\(text)") {
        try withUnsafePointer(to: &config) { config in
          var args = sized(autoep_route_args()) {
            ($0.config, $0.logits, $0.topk_idx) = (config, logits.pointer, idx.pointer)
            ($0.topk_weights, $0.tokens_per_expert) = (weights.pointer, load.pointer)
          }
          try call { autoep_route(context.handle, &args, $0) }
        }
      }
    }
  }

  @Test("a context of a GPU, or an error that names the missing library")
  func cudaContext() throws {
    var config = sized(autoep_context_config()) { $0.device_type = Int32(AUTOEP_DEVICE_CUDA) }
    var context: autoep_context = 0
    do {
      try call { autoep_context_create(&config, &context, $0) }
      try call { autoep_context_free(context, $0) }
    } catch let error as ABIError {
      let expected =
        error.status == AUTOEP_ERROR_MISSING_LIBRARY ? ["libcuda.so.1", "libnvrtc"] : ["NO_DEVICE"]
      #expect(expected.contains { error.message.contains($0) }, "\(error)")
    }
    config.num_threads = 2
    expectFailure(AUTOEP_ERROR_INVALID_ARGUMENT, "num_threads") {
      try call { autoep_context_create(&config, &context, $0) }
    }
  }

  private typealias LayerChange = (inout autoep_layer_config) -> Void

  @Test("layer configs")
  func layers() throws {
    let context = try TestContext()
    let changes: [(String, LayerChange)] = [
      ("num_experts", { $0.num_experts = 0 }), ("top_k", { $0.top_k = 0 }),
      ("hidden_size", { $0.hidden_size = 0 }), ("ffn_size", { $0.ffn_size = 1 << 40 }),
      ("dtype", { $0.dtype = autoep_dtype(AUTOEP_DTYPE_F16) }),
      ("activation", { $0.activation = 0 }),
      ("gate", { $0.gate = 9 }), ("weight_layout", { $0.weight_layout = 0 }),
      ("dispatch", { $0.dispatch = 0 }),
      (
        "dispatch is AUTOEP_DISPATCH_TOKENS, but apply_weights",
        {
          $0.dispatch = autoep_dispatch_kind(AUTOEP_DISPATCH_TOKENS)
          $0.apply_weights = autoep_apply(AUTOEP_APPLY_BEFORE)
        }
      ),
      ("apply_weights", { $0.apply_weights = 3 }), ("struct_size", { $0.struct_size = 8 }),
      (
        "swiglu_limit",
        {
          $0.activation = autoep_activation(AUTOEP_ACTIVATION_CLAMPED_SILU)
          $0.swiglu_limit = 0
        }
      ),
    ]
    for (text, change) in changes {
      var config = ExpertsConfiguration(
        numExperts: 4, topK: 2, hiddenSize: 5, ffnSize: 3, dtype: .f32
      ).abi()
      change(&config)
      expectFailure(AUTOEP_ERROR_INVALID_ARGUMENT, "config.\(text)") {
        _ = try TestLayer(context.handle, config)
      }
    }
    expectFailure(AUTOEP_ERROR_INVALID_HANDLE) {
      _ = try TestLayer(
        context.handle,
        ExpertsConfiguration(numExperts: 4, topK: 2, hiddenSize: 5, ffnSize: 3, dtype: .f32).abi(7))
    }
  }

  @Test("buffers too small, missing or not aligned, and sizes out of range")
  func buffers() throws {
    let context = try TestContext()
    let layer = try TestLayer(
      context.handle,
      ExpertsConfiguration(numExperts: 4, topK: 2, hiddenSize: 5, ffnSize: 3, dtype: .f32).abi())
    let idx = TestTensor([3, 2], AUTOEP_DTYPE_I32, [0, 1, 2, 3, 1, 0])
    let memory = TestBuffer(layer.planBytes(3) + 64)
    func plan(_ buffer: autoep_buffer) throws {
      var args = sized(autoep_plan_args()) { ($0.topk_idx, $0.plan) = (idx.pointer, buffer) }
      var info = sized(autoep_plan_info())
      try call { autoep_layer_plan(context.handle, layer.handle, &args, &info, $0) }
    }
    try plan(memory.buffer)
    let bytes = layer.planBytes(3)
    expectFailure(AUTOEP_ERROR_INVALID_ARGUMENT, "plan", "\(bytes - 1)", "\(bytes)") {
      try plan(autoep_buffer(data: memory.buffer.data, bytes: bytes - 1))
    }
    expectFailure(AUTOEP_ERROR_INVALID_ARGUMENT, "plan is NULL") {
      try plan(autoep_buffer(data: nil, bytes: bytes))
    }
    expectFailure(AUTOEP_ERROR_INVALID_ARGUMENT, "plan is not aligned") {
      try plan(autoep_buffer(data: memory.buffer.data + 8, bytes: bytes))
    }
    for (tokens, rows) in [(-1, 0), (1 << 31, 0), (1 << 30, 0), (3, 5)] {
      expectFailure(AUTOEP_ERROR_INVALID_ARGUMENT) {
        var args = sized(autoep_workspace_args()) {
          ($0.num_tokens, $0.rows_capacity) = (Int64(tokens), Int64(rows))
        }
        var bytes = sized(autoep_workspace_bytes())
        try call {
          autoep_layer_workspace(context.handle, layer.handle, &args, &bytes, $0)
        }
      }
    }
  }

  @Test("every rank in this process reports the failure of its group, permanently")
  func abort() throws {
    var comms = [autoep_comm](repeating: 0, count: 2)
    try call { autoep_comm_create_local(2, 60, &comms, $0) }
    defer { for comm in comms { _ = autoep_comm_free(comm, nil) } }
    func health(_ comm: autoep_comm) throws -> ABIError {
      var health = sized(autoep_error())
      try call { autoep_comm_health(comm, &health, $0) }
      return ABIError(health)
    }
    #expect(try health(comms[0]).status == AUTOEP_OK)
    try call { autoep_comm_abort(comms[1], "a loss of NaN", $0) }
    for comm in comms {
      let failure = try health(comm)
      #expect(failure.status == AUTOEP_ERROR_COMMUNICATION)
      #expect(failure.message.contains("a loss of NaN"))
      #expect(failure.ranks == [1])
      expectFailure(AUTOEP_ERROR_COMMUNICATION, "a loss of NaN") {
        try call { autoep_barrier(comm, $0) }
      }
    }
  }
}
