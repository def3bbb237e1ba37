import AutoEPCore
import AutoEPSystem

/// The grouped GEMMs of one pass over the rows of all experts: Hopper's where they take the device,
/// the dtype, the widths and the places of the tensors, else the portable ones.
struct ExpertsGEMM {
  let backend: CUDABackend
  let groups: DeviceGroups
  let layout: WeightLayout
  let hopper: HopperGEMM?

  /// out [N,out] = rows [N,in] times their experts' weights (+ bias).
  func product(
    _ rows: TensorView, _ weights: TensorView, bias: TensorView?, into out: TensorView
  ) throws(EngineError) {
    try product(rows, weights, layout, bias: bias, into: out)
  }

  /// gradRows [N,in] = gradOut [N,out] times their experts' weights, the other way.
  func inputGradient(
    _ gradOut: TensorView, _ weights: TensorView, into gradRows: TensorView
  ) throws(EngineError) {
    try product(gradOut, weights, layout.transposed, bias: nil, into: gradRows)
  }

  /// gradWeights = Σ over an expert's rows of gradOut ⊗ rows.
  func weightGradient(
    gradOut: TensorView, rows: TensorView, into gradWeights: TensorView, accumulate: Bool
  ) throws(EngineError) {
    if let hopper = hopperWriting(gradWeights) {
      return try hopper.weightGradient(
        gradOut: gradOut, rows: rows, ahead: nil, layout, into: gradWeights, accumulate: accumulate)
    }
    try backend.groupedGEMMWeightGradient(
      gradOut: gradOut, rows: rows, layout: layout, groups: groups, into: gradWeights,
      accumulate: accumulate)
  }

  /// Hopper's products, if the gradient of these weights is theirs.
  func hopperWriting(_ gradWeights: TensorView) -> HopperGEMM? {
    hopper.flatMap { $0.writes(gradWeights) ? $0 : nil }
  }

  private func product(
    _ rows: TensorView, _ weights: TensorView, _ layout: WeightLayout, bias: TensorView?,
    into out: TensorView
  ) throws(EngineError) {
    if let hopper {
      return try hopper.product(rows, weights, layout, bias: bias, into: out)
    }
    try backend.groupedGEMM(
      rows, weights: weights, layout: layout, bias: bias, groups: groups, into: out)
  }
}

extension LocalExperts {
  /// The products for these rows and weights, and tensors of the caller's.
  func gemm(
    _ routing: RoutingMetadata, _ weights: ExpertsWeights, given: [TensorView]
  ) -> ExpertsGEMM {
    let usesHopper =
      kernels == .sm90 && HopperGEMM.reaches([weights.gateUp, weights.down] + given)
    return ExpertsGEMM(
      backend: backend, groups: .offsets(routing.expertOffsets),
      layout: configuration.weightLayout,
      hopper: (usesHopper ? routing.tiles : nil).map {
        HopperGEMM(backend: backend, expertOffsets: routing.expertOffsets, tiles: $0)
      })
  }

  /// Whether Hopper's products take this layer on this device, wherever the tensors are.
  var fitsHopper: Bool {
    let widths = [configuration.hiddenSize, configuration.ffnSize]
    return rowCount > 0 && backend.device.architecture.runs(.sm90a)
      && HopperGEMM.takes(configuration.dtype, widths: widths)
  }

  /// Whether Hopper's products have the activation and its gradient in them.
  func fusesSwiGLU(_ weights: ExpertsWeights) -> Bool {
    configuration.activation == .silu && configuration.gate == .concatenated
      && configuration.scoreApply == .after && weights.gateUpBias == nil
      && weights.downBias == nil
  }
}

/// Which grouped GEMMs the host program wants: AUTOEP_CUDA_KERNELS, for comparisons.
enum ProductKernels: String {
  case sm90
  case portable

  static let variable = "AUTOEP_CUDA_KERNELS"

  /// Hopper's where they can be used, unless the variable says otherwise.
  static func chosen() throws(EngineError) -> ProductKernels {
    guard let text = environmentValue(variable) else { return .sm90 }
    guard let kernels = ProductKernels(rawValue: text) else {
      throw EngineError(
        .invalidArgument, "\(variable) is \"\(text)\"; expected sm90, portable or nothing")
    }
    return kernels
  }
}
