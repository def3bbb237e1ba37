extension KernelSource {
  /// Every source, so that a test can compile each.
  static let all: [KernelSource] = [
    .permute, .unpermute, .slotDot, .gatherFromRows, .scatterToRows, .sortByExpert, .groupedGEMM,
    .weightGradient, .rowSum, .activate, .activateBackward, .routerLogits, .route, .routeBackward,
    .zLoss, .jitter, .clear, .arrivalPlaces, .hopperGEMM, .hopperWeightGradient, .hopperRowPairs,
  ]
}
