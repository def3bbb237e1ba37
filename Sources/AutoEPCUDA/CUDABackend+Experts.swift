import AutoEPCore
import AutoEPSystem
import CKernels

/// The experts' steps with the activation fused into Hopper's GEMMs, and rows that idle warps of a GEMM copy. A layer
/// that these kernels do not support is computed by the composed steps.
extension CUDABackend {
  /// Computes the gate/up GEMM with the activation in its epilogue, then the down GEMM.
  public func expertsForward(
    _ experts: ExpertsCall, rows: ExpertRows, hidden: TensorView, into results: ExpertRows,
    _ arena: inout Arena
  ) throws(EngineError) {
    guard
      let hopper = try fusedGEMM(
        experts, rows: hidden.shape[0], [results.tensor, hidden, experts.weights.gateUp])
    else {
      return try composedExpertsForward(experts, rows: rows, hidden: hidden, into: results, &arena)
    }
    let configuration = experts.configuration
    let activated = try arena.take([hidden.shape[0], configuration.ffnSize], configuration.dtype)
    try hopper.swiGLU(
      readable(rows, room: results.tensor).tensor, experts.weights.gateUp,
      configuration.weightLayout, hidden: hidden, into: activated)
    try groupedGEMM(
      ExpertRows(activated), weights: experts.weights.down, layout: configuration.weightLayout,
      bias: nil, groups: experts.groups, into: results)
  }

  /// Computes down's backward GEMM with the activation's gradient in its epilogue, then the remaining gradients.
  public func expertsBackward(
    _ experts: ExpertsCall, _ call: ExpertsGradient
  ) throws(EngineError) -> TensorView? {
    guard let rowWeights = call.rowWeights, let dots = call.dots,
      let hopper = try fusedGEMM(
        experts, rows: call.hidden.shape[0],
        [
          call.gradInputs.tensor, call.hidden, call.gradHidden, call.activated,
          experts.weights.down,
        ])
    else { return try composedExpertsBackward(experts, call) }
    let gradRows = try readable(call.gradRows, room: call.gradInputs.tensor)
    try hopper.swiGLUBackward(
      gradRows.tensor, experts.weights.down, experts.configuration.weightLayout,
      hidden: call.hidden, rowWeights: inOrder(rowWeights), into: call.gradHidden,
      activated: call.activated, dots: inOrder(dots))
    try downAndBiasGradients(experts, call, gradRows: gradRows)
    try inputGradient(experts, call)
    return dots.tensor
  }

  /// One part per column tile of Hopper's GEMM.
  public func dotParts(_ configuration: ExpertsConfiguration) -> Int {
    takesHopper(configuration) ? HopperGEMM.dotCount(ffnSize: configuration.ffnSize) : 1
  }

  /// Computes the gradient of gate/up's weights; copies its input rows while the GEMM runs.
  public func gateUpGradient(
    _ experts: ExpertsCall, rows: ExpertRows, room: TensorView?, gradHidden: TensorView,
    into gradGateUp: TensorView, accumulate: Bool, _ arena: inout Arena
  ) throws(EngineError) {
    let configuration = experts.configuration
    guard case .tokens(let slots) = rows.placement, let room,
      let hopper = try hopperGEMM(
        experts.groups, rows: gradHidden.shape[0], widths: [gradHidden.shape[1], rows.width],
        [rows.tensor, room, gradHidden, gradGateUp])
    else {
      return try composedGateUpGradient(
        experts, rows: rows, room: room, gradHidden: gradHidden, into: gradGateUp,
        accumulate: accumulate)
    }
    try hopper.weightGradient(
      gradOut: gradHidden, rows: room,
      ahead: RowsAhead(
        rows.tensor, into: room, slots: slots, rowsInUse: experts.groups.rowsInUse, &arena),
      configuration.weightLayout, into: gradGateUp, accumulate: accumulate)
  }

  /// The bytes of the counters of rows copied ahead.
  public func gateUpGradientBytes(
    _ configuration: ExpertsConfiguration, rowsCapacity: Int
  ) -> Int {
    takesHopper(configuration) ? RowsAhead.byteCount(rows: rowsCapacity) : 0
  }

  /// The bytes of the list of row pairs; 0 if Hopper's GEMMs do not support the layer.
  public func preparedBytes(
    _ configuration: ExpertsConfiguration, localExperts: Int
  ) -> ByteCount {
    takesHopper(configuration)
      ? RowTiles.byteCount(topK: configuration.topK, numExperts: localExperts) : ByteCount()
  }

  /// Lists the row pairs.
  public func prepare(
    _ groups: RowGroups, _ configuration: ExpertsConfiguration, rowsCapacity: Int
  ) throws(EngineError) {
    guard takesHopper(configuration), rowsCapacity > 0,
      let tiles = try rowTiles(groups, rowsCapacity)
    else { return }
    try list(
      tiles, expertOffsets: groups.tensor,
      depth: max(configuration.hiddenSize, configuration.gateUpSize))
  }

  /// Hopper's GEMMs for groups with a list of row pairs and tensors that the TMA can access; nil to use the portable
  /// GEMMs.
  func hopperGEMM(
    _ groups: RowGroups, rows: Int, widths: [Int], _ tensors: [TensorView]
  ) throws(EngineError) -> HopperGEMM? {
    guard rows > 0, groups.count > 0, HopperGEMM.takes(tensors[0].dtype, widths: widths),
      HopperGEMM.reaches(tensors),
      try ProductKernels.chosen() == .sm90, let tiles = try rowTiles(groups, rows)
    else { return nil }
    return HopperGEMM(backend: self, expertOffsets: groups.tensor, tiles: tiles)
  }

  /// Hopper's GEMMs with SwiGLU in the epilogue; nil unless the layer's activation is SwiGLU without a clamp.
  private func fusedGEMM(
    _ experts: ExpertsCall, rows: Int, _ tensors: [TensorView]
  ) throws(EngineError) -> HopperGEMM? {
    guard experts.isPlainSwiGLU else { return nil }
    let configuration = experts.configuration
    return try hopperGEMM(
      experts.groups, rows: rows, widths: [configuration.hiddenSize, configuration.ffnSize], tensors
    )
  }

  /// Whether Hopper's GEMMs support a layer on this device, regardless of its tensors' addresses.
  private func takesHopper(_ configuration: ExpertsConfiguration) -> Bool {
    device.architecture.runs(.sm90a)
      && HopperGEMM.takes(
        configuration.dtype, widths: [configuration.hiddenSize, configuration.ffnSize])
  }

  private func rowTiles(_ groups: RowGroups, _ rows: Int) throws(EngineError) -> RowTiles? {
    guard groups.offsets != nil, var memory = groups.prepared, memory.byteCount > 0 else {
      return nil
    }
    return try RowTiles(&memory, rows: rows, numExperts: groups.count)
  }
}

extension ExpertsCall {
  /// Whether the activation is the one that Hopper's epilogues compute.
  fileprivate var isPlainSwiGLU: Bool {
    configuration.activation == .silu && configuration.gate == .concatenated
      && configuration.applyWeights == .after && weights.gateUpBias == nil
      && weights.downBias == nil
  }
}

/// The choice of grouped GEMMs: AUTOEP_CUDA_KERNELS, for comparisons.
enum ProductKernels: String {
  case sm90
  case portable

  static let variable = "AUTOEP_CUDA_KERNELS"

  /// Hopper's GEMMs where they are supported, unless the variable is set.
  static func chosen() throws(EngineError) -> ProductKernels {
    guard let text = environmentValue(variable) else { return .sm90 }
    guard let kernels = ProductKernels(rawValue: text) else {
      throw EngineError(
        .invalidArgument, "\(variable) is \"\(text)\"; expected \"sm90\", \"portable\" or unset")
    }
    return kernels
  }
}
