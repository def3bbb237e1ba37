extension KernelSource {
  /// Every source there is, so that a test can compile each.
  static let all: [KernelSource] = [
    .sortByExpert, .permute, .unpermute, .slotDot, .gatherPartials, .rowWeights, .activate,
    .activateBackward, .rowSum, .portableGroupedGEMM, .portableWeightGradient, .route,
    .routeBackward, .zLoss, .jitter, .hopperGEMM, .hopperWeightGradient, .hopperTileList,
  ]
}
