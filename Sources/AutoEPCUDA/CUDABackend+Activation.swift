import AutoEPCore
import AutoEPSystem
import CKernels

extension KernelSource {
  static let activate = KernelSource(
    "activate.cu", PackageResources.activate_cu, axes: [KernelVariant.rows, activations])

  static let activateBackward = KernelSource(
    "activate_backward.cu", PackageResources.activate_backward_cu,
    axes: [KernelVariant.rows, activations, [false, true].map(downBias)])

  private static let activations = [
    ExpertsConfiguration.Activation.silu, .gelu, .geluTanh, .reluSquared, .clampedSwiGLU,
    .clampedSiLU,
  ].flatMap { activation in
    [ExpertsConfiguration.Gate.none, .concatenated, .interleaved].compactMap { gate in
      // The clamped activations need a gate.
      activation.isClamped && gate == .none ? nil : activation.defines + gate.defines
    }
  }

  fileprivate static func downBias(isThere: Bool) -> Defines {
    KernelVariant.define("DOWN_BIAS", isThere ? 1 : 0)
  }
}

extension ExpertsConfiguration {
  fileprivate var activationDefines: KernelSource.Defines {
    activation.defines + gate.defines
  }
}

extension ExpertsConfiguration.Activation {
  fileprivate var defines: KernelSource.Defines {
    let code =
      switch self {
      case .silu: ACTIVATION_SILU
      case .gelu: ACTIVATION_GELU
      case .geluTanh: ACTIVATION_GELU_TANH
      case .reluSquared: ACTIVATION_RELU_SQUARED
      case .clampedSwiGLU: ACTIVATION_CLAMPED_SWIGLU
      case .clampedSiLU: ACTIVATION_CLAMPED_SILU
      }
    return KernelVariant.define("ACTIVATION", code)
  }
}

extension ExpertsConfiguration.Gate {
  fileprivate var defines: KernelSource.Defines {
    let code =
      switch self {
      case .none: GATE_NONE
      case .concatenated: GATE_CONCATENATED
      case .interleaved: GATE_INTERLEAVED
      }
    return KernelVariant.define("GATE", code)
  }
}

extension CUDABackend {
  /// out [R,F] = activation of hidden [R,G].
  public func activate(
    _ configuration: ExpertsConfiguration, hidden: TensorView, groups: RowGroups,
    into out: TensorView
  ) throws(EngineError) {
    let layout = try RowLayout(out, [hidden], "the activation")
    let segments = layout.segments(vectorsPerLane: ACTIVATE_PER_LANE)
    try kernel(.activate, "activate", layout.defines + configuration.activationDefines).launch(
      grid: LaunchSize(blocks(warps: out.shape[0], sharedBy: segments), segments), block: 256,
      on: stream, hidden, groups.rowsInUse, out, kernelInt(out.shape[0], "R"), layout.vectorCount,
      Float(configuration.gateAlpha), Float(configuration.swigluLimit))
  }

  /// Computes the activation's gradient, one block per row.
  public func activateBackward(
    _ configuration: ExpertsConfiguration, groups: RowGroups, _ call: ActivationGradient
  ) throws(EngineError) {
    let operation = "the activation's backward"
    let dtype = call.gradOut.dtype
    try KernelVariant.check(dtype, for: operation)
    let downBias = call.dots == nil ? nil : call.downBias
    let gradRows = try call.gradRows.map { rows throws(EngineError) in try inOrder(rows) }
    let hiddenSize = downBias == nil ? 0 : configuration.hiddenSize
    let vector = KernelVariant.vector(
      dtype, widths: [call.gradOut.shape[1], hiddenSize],
      [call.hidden, call.gradOut, call.gradHidden, call.activated, gradRows, downBias])
    let rowCount = call.gradOut.shape[0]
    try kernel(
      .activateBackward, "activate_backward",
      KernelVariant.rows(dtype, vector) + configuration.activationDefines
        + KernelSource.downBias(isThere: downBias != nil)
    ).launch(
      grid: LaunchSize(min(rowCount, device.processorCount * 8)), block: 256,
      sharedBytes: 8 * 4, on: stream, call.hidden, call.gradOut,
      optionalInOrder(call.rowWeights), groups.offsets, gradRows, downBias, call.gradHidden,
      call.activated, optionalInOrder(call.dots), kernelInt(rowCount, "R"),
      kernelInt(groups.count, "E"), kernelInt(call.gradOut.shape[1] / vector, "F"),
      kernelInt(hiddenSize / vector, "H"), Float(configuration.gateAlpha),
      Float(configuration.swigluLimit))
  }
}
