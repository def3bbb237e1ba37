import AutoEPCore
import AutoEPSystem
import CKernels

extension KernelSource {
  static let activate = KernelSource(
    "activate.cu", PackageResources.activate_cu, axes: [KernelVariant.rows, activations])

  static let activateBackward = KernelSource(
    "activate_backward.cu", PackageResources.activate_backward_cu,
    axes: [
      KernelVariant.rows, activations,
      [weighting(nil, hasDownBias: false)]
        + KernelVariant.elements.flatMap { dtype in
          [false, true].map { weighting(dtype, hasDownBias: $0) }
        },
    ])

  private static let activations = [
    ExpertsConfiguration.Activation.silu, .gelu, .geluTanh, .reluSquared, .clampedSwiGLU,
    .clampedSiLU,
  ].flatMap { activation in
    [ExpertsConfiguration.Gate.none, .concatenated, .interleaved].compactMap { gate in
      // The clamped ones have a gate.
      activation.isClamped && gate == .none ? nil : activation.defines + gate.defines
    }
  }

  fileprivate static func weighting(_ dtype: DataType?, hasDownBias: Bool) -> Choice {
    KernelVariant.weight(dtype) + KernelVariant.define("DOWN_BIAS", hasDownBias ? 1 : 0)
  }
}

extension ExpertsConfiguration {
  fileprivate var activationChoice: KernelSource.Choice {
    activation.defines + gate.defines
  }
}

extension ExpertsConfiguration.Activation {
  fileprivate var defines: KernelSource.Choice {
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
  fileprivate var defines: KernelSource.Choice {
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
    _ configuration: ExpertsConfiguration, hidden: TensorView, into out: TensorView
  ) throws(EngineError) {
    try activate(configuration, hidden: hidden, groups: nil, into: out)
  }

  /// gradHidden [R,G] from gradOut [R,F].
  public func activateBackward(
    _ configuration: ExpertsConfiguration, hidden: TensorView, gradOut: TensorView,
    into gradHidden: TensorView
  ) throws(EngineError) {
    try activateBackward(
      configuration, hidden: hidden, gradOut: gradOut, routing: nil, weights: nil, gradRows: nil,
      downBias: nil, into: gradHidden, activated: nil, gradWeights: nil)
  }

  /// - Parameter groups: whose rows are in use; nil for all rows.
  func activate(
    _ configuration: ExpertsConfiguration, hidden: TensorView, groups: DeviceGroups?,
    into out: TensorView
  ) throws(EngineError) {
    let layout = try RowLayout(out, [hidden], "the activation")
    let segments = layout.segments(vectorsPerLane: ACTIVATE_PER_LANE)
    try kernel(.activate, "activate", layout.choice + configuration.activationChoice).launch(
      grid: LaunchSize(blocks(warps: out.shape[0], sharedBy: segments), segments), block: 256,
      on: stream, hidden, groups?.rowsInUse ?? DeviceAddress(0), out,
      kernelInt(out.shape[0], "N"), layout.vectorCount, Float(configuration.gateAlpha),
      Float(configuration.swigluLimit))
  }

  /// With what else is known of a row while it is there: s, the weight of its slot, 1 without weights.
  ///
  /// - Parameters:
  ///   - routing: whose rows are in use; nil for all rows, without weights.
  ///   - gradOut: the gradient of the activation A before weighting.
  ///   - gradRows: that of the experts' output, of which `downBias` is a part.
  ///   - activated: s · A, out; may be `gradOut`.
  ///   - gradWeights: the gradient of s for each slot, out.
  func activateBackward(
    _ configuration: ExpertsConfiguration, hidden: TensorView, gradOut: TensorView,
    routing: RoutingMetadata?, weights: TensorView?, gradRows: TensorView?, downBias: TensorView?,
    into gradHidden: TensorView, activated: TensorView?, gradWeights: TensorView?
  ) throws(EngineError) {
    let operation = "the activation's backward"
    let dtype = gradOut.dtype
    try KernelVariant.check(dtype, for: operation)
    if let weights { try KernelVariant.check(weights.dtype, for: operation) }
    let downBias = gradWeights == nil ? nil : downBias
    let hiddenSize = downBias == nil ? 0 : configuration.hiddenSize
    let vector = KernelVariant.vector(
      dtype, widths: [gradOut.shape[1], hiddenSize],
      [hidden, gradOut, gradHidden, activated, gradRows, downBias])
    let rowCount = gradOut.shape[0]
    try kernel(
      .activateBackward, "activate_backward",
      KernelVariant.rows(dtype, vector) + configuration.activationChoice
        + KernelSource.weighting(weights?.dtype, hasDownBias: downBias != nil)
    ).launch(
      grid: LaunchSize(min(rowCount, device.processorCount * 8)), block: 256,
      sharedBytes: 8 * 4, on: stream, hidden, gradOut, routing?.slotOfRow, weights,
      routing?.expertOffsets, gradRows, downBias, gradHidden, activated, gradWeights,
      kernelInt(rowCount, "N"), kernelInt(configuration.numExperts, "E"),
      kernelInt(gradOut.shape[1] / vector, "F"), kernelInt(hiddenSize / vector, "H"),
      Float(configuration.gateAlpha), Float(configuration.swigluLimit))
  }
}
