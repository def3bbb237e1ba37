import AutoEP
import AutoEPCore
import CAutoEP
import FakeCUDA
import Testing

/// The calls on a GPU's context, as far as a driver that does nothing can test them: their checks, the compilation
/// of their kernels, and their launches.
@Suite(.enabled(if: InstalledNVRTC.path != nil, Comment(rawValue: InstalledNVRTC.advice)))
struct GPUCallTests {
  /// The calls that GPUs support: no exchanges.
  static let calls = Call.all.filter { !$0.takesAnyShape }

  @Test("every tensor of every function, invalidated in every way", arguments: calls)
  func tensors(item: Call) throws {
    let context = try FakeGPU.shared.get().handle
    try item.spoilEachTensor(context, .cuda)
    try item(context) { tensors in
      for tensor in tensors { _ = tensor.describe(Place.cuda.put) }
      return tensors.map(\.pointer)
    }
  }

  @Test("a router's forward launches the product, clears the counts, and routes")
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

  @Test("the dtypes and buffer sizes of a layer on a GPU")
  func layer() throws {
    let context = try FakeGPU.shared.get().handle
    func layer(_ dtype: DataType) throws -> TestLayer {
      try TestLayer(
        context,
        ExpertsConfiguration(numExperts: 4, topK: 2, hiddenSize: 5, ffnSize: 3, dtype: dtype).abi())
    }
    for dtype in [DataType.f32, .bf16, .f16] {
      let layer = try layer(dtype)
      #expect(layer.info.counts_rows == 0)
      #expect(layer.info.backward_reads_x == 1)
      #expect(try layer.workspace(0).backward == 0)
    }
    // f16: 200 rows of H = 5 and F = 3, each tensor rounded up to 64 bytes, after the sort's counts of 128 chunks.
    let bytes = try layer(.f16).workspace(100)
    #expect(bytes.plan == 2560 + 64)
    #expect(bytes.forward == 2048 + 1216)
    #expect(bytes.dispatch == 0)
    expectFailure(AUTOEP_ERROR_INVALID_ARGUMENT, "config.dtype") { _ = try layer(.f64) }
  }

  @Test("a push communicator keeps its control communicator")
  func push() throws {
    _ = try FakeGPU.shared.get()
    var (control, comm): (autoep_comm, autoep_comm) = (0, 0)
    try call { autoep_comm_create_self(&control, $0) }
    var config = sized(autoep_push_config()) {
      ($0.control, $0.timeout_seconds, $0.chunk_bytes) = (control, 1, 4096)
    }
    try call { autoep_comm_create_push(&config, &comm, $0) }
    try call { autoep_comm_free(control, $0) }
    try call { autoep_barrier(comm, $0) }
    var (rank, size): (Int32, Int32) = (-1, -1)
    try call { autoep_comm_rank(comm, &rank, &size, $0) }
    #expect(rank == 0 && size == 1)
    try call { autoep_comm_abort(comm, "enough", $0) }
    expectFailure(AUTOEP_ERROR_COMMUNICATION, "enough") {
      try call { autoep_barrier(comm, $0) }
    }
    try call { autoep_comm_free(comm, $0) }
  }

  @Test("several ranks, contexts of another device, and the properties of a context")
  func others() throws {
    let context = try FakeGPU.shared.get().handle
    var comms = [autoep_comm](repeating: 0, count: 2)
    try call { autoep_comm_create_local(2, 60, &comms, $0) }
    defer { for comm in comms { _ = autoep_comm_free(comm, nil) } }
    let configuration = ExpertsConfiguration(
      numExperts: 4, topK: 2, hiddenSize: 5, ffnSize: 3, dtype: .f32)
    expectFailure(AUTOEP_ERROR_UNSUPPORTED, "CUDA device 0", "autoep_comm_create_nccl") {
      _ = try TestLayer(context, configuration.abi(comms[0]))
    }
    let layer = try TestLayer(context, configuration.abi())
    let cpu = try TestContext()
    expectFailure(AUTOEP_ERROR_INVALID_ARGUMENT, "is of the CPU", "CUDA device 0") {
      var args = sized(autoep_workspace_args())
      var bytes = sized(autoep_workspace_bytes())
      try call { autoep_layer_workspace(cpu.handle, layer.handle, &args, &bytes, $0) }
    }
    var threads: Int32 = -1
    try call { autoep_context_num_threads(context, &threads, $0) }
    #expect(threads == 0)
    var config = autoep_context_config(
      struct_size: MemoryLayout<autoep_context_config>.size,
      device_type: Int32(AUTOEP_DEVICE_CUDA), device_id: 7, num_threads: 0, stream: nil,
      nvrtc_path: nil)
    var other: autoep_context = 0
    expectFailure(AUTOEP_ERROR_INVALID_ARGUMENT, "CUDA device 7 does not exist") {
      try call { autoep_context_create(&config, &other, $0) }
    }
  }
}
