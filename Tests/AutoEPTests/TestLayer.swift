import AutoEP
import AutoEPCore
import CAutoEP

/// A layer of the C interface, freed with the object, and memory for one pass.
final class TestLayer {
  let handle: autoep_layer
  let info: autoep_layer_info
  private let context: autoep_context
  private let config: autoep_layer_config

  init(_ context: autoep_context, _ config: autoep_layer_config) throws {
    var (config, handle, info) = (config, autoep_layer(0), sized(autoep_layer_info()))
    try call { autoep_layer_create(context, &config, &handle, &info, $0) }
    self.context = context
    self.config = config
    self.handle = handle
    self.info = info
  }

  deinit { _ = autoep_layer_free(handle, nil) }

  /// The bytes of a plan for T tokens.
  func planBytes(_ numTokens: Int) -> Int {
    Int(info.plan_bytes) + numTokens * Int(info.plan_bytes_per_token)
  }

  /// The bytes that a forward saves for this number of rows.
  func savedBytes(_ rows: Int) -> Int {
    Int(info.saved_bytes) + rows * Int(info.saved_bytes_per_row)
  }

  /// The workspaces of a pass.
  func workspace(
    _ numTokens: Int, rows: Int = 0, _ set: (inout autoep_workspace_args) -> Void = { _ in }
  ) throws -> autoep_workspace_bytes {
    var args = sized(autoep_workspace_args(), set)
    args.num_tokens = Int64(numTokens)
    args.rows_capacity = Int64(rows)
    var bytes = sized(autoep_workspace_bytes())
    try call { autoep_layer_workspace(context, handle, &args, &bytes, $0) }
    return bytes
  }
}

/// A buffer of exactly the size that a call asks for.
final class TestBuffer {
  let buffer: autoep_buffer
  private let memory: UnsafeMutableRawPointer

  init(_ byteCount: Int) {
    memory = .allocate(byteCount: max(byteCount, 1), alignment: 64)
    // Makes reads of unwritten memory visible.
    memory.initializeMemory(as: UInt8.self, repeating: 0xFF, count: max(byteCount, 1))
    buffer = autoep_buffer(data: memory, bytes: byteCount)
  }

  convenience init(_ byteCount: Int64) { self.init(Int(byteCount)) }

  deinit { memory.deallocate() }
}

extension ExpertsConfiguration {
  /// The configuration as the C struct.
  func abi(_ comm: autoep_comm = 0) -> autoep_layer_config {
    sized(autoep_layer_config()) {
      $0.num_experts = Int32(numExperts)
      $0.top_k = Int32(topK)
      $0.hidden_size = Int64(hiddenSize)
      $0.ffn_size = Int64(ffnSize)
      $0.dtype = dtype.rawValue
      $0.activation = activation.rawValue
      $0.gate = gate.rawValue
      $0.weight_layout = weightLayout.rawValue
      $0.apply_weights = applyWeights.rawValue
      $0.swiglu_alpha = swigluAlpha
      $0.swiglu_limit = swigluLimit
      $0.dispatch = autoep_dispatch_kind(AUTOEP_DISPATCH_SLOTS)
      $0.comm = comm
    }
  }
}
