import AutoEPCore
import AutoEPSystem

/// All experts of a layer on one GPU, for a number of tokens: sort, permute, experts, unpermute.
/// Legend as in autoep.h. Row counts are known to the device alone: arrays have room for all N rows.
public struct LocalExperts {
  let configuration: ExpertsConfiguration
  let numTokens: Int
  let topK: Int
  let backend: CUDABackend
  let kernels: ProductKernels

  /// The experts for T tokens and K choices each, whose product fits 32 bits.
  public init(
    _ configuration: ExpertsConfiguration, numTokens: Int, topK: Int, on backend: CUDABackend
  ) throws(EngineError) {
    self.configuration = configuration
    self.numTokens = numTokens
    self.topK = topK
    self.backend = backend
    kernels = try ProductKernels.chosen()
  }

  /// y [T,H] of x [T,H]; fills `routing` and `hidden` for the backward.
  public func forward(
    _ weights: ExpertsWeights, x: TensorView, topkIdx: TensorView, topkWeights: TensorView,
    routing: Arena, hidden: TensorView, tokensPerExpert: TensorView?, into y: TensorView,
    arena: inout Arena
  ) throws(EngineError) {
    let routing = try metadata(routing)
    try backend.sort(
      topkIdx, numExperts: configuration.numExperts, into: routing,
      counts: SortCounts(&arena, numExperts: configuration.numExperts),
      tokensPerExpert: tokensPerExpert)
    if let tiles = routing.tiles {
      try backend.list(
        tiles, expertOffsets: routing.expertOffsets,
        depth: max(configuration.hiddenSize, configuration.gateUpSize))
    }
    let rows = try arena.take(rowsShape, configuration.dtype)
    try backend.permute(
      x, rowOfSlot: routing.rowOfSlot, weights: weightsOnInput(topkWeights), into: rows)
    try experts(weights, routing, rows: rows, hidden: hidden, arena: &arena)
    try backend.unpermute(
      rows, rowOfSlot: routing.rowOfSlot, weights: weightsOnOutput(topkWeights), into: y)
  }

  /// gate/up grouped GEMM, activation, down grouped GEMM: results take the place of `rows`.
  private func experts(
    _ weights: ExpertsWeights, _ routing: RoutingMetadata, rows: TensorView, hidden: TensorView,
    arena: inout Arena
  ) throws(EngineError) {
    let gemm = gemm(routing, weights, given: [hidden])
    let activated = try arena.take(activatedShape, configuration.dtype)
    if let hopper = gemm.hopper, fusesSwiGLU(weights) {
      try hopper.swiGLU(
        rows, weights.gateUp, configuration.weightLayout, hidden: hidden, into: activated)
    } else {
      try gemm.product(rows, weights.gateUp, bias: weights.gateUpBias, into: hidden)
      try backend.activate(configuration, hidden: hidden, groups: gemm.groups, into: activated)
    }
    try gemm.product(activated, weights.down, bias: weights.downBias, into: rows)
  }

  func metadata(_ routing: Arena) throws(EngineError) -> RoutingMetadata {
    try RoutingMetadata(
      routing, numTokens: numTokens, topK: topK, numExperts: configuration.numExperts,
      hasTiles: fitsHopper)
  }

  func weightsOnInput(_ topkWeights: TensorView) -> TensorView? {
    configuration.scoreApply == .before ? topkWeights : nil
  }

  func weightsOnOutput(_ topkWeights: TensorView) -> TensorView? {
    configuration.scoreApply == .after ? topkWeights : nil
  }
}
