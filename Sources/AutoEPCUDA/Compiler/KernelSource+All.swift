extension KernelSource {
  /// All sources; tests compile each of them.
  static let all: [KernelSource] = [
    .permute, .unpermute, .slotDot, .gatherFromRows, .scatterToRows, .sortByExpert, .groupedGEMM,
    .weightGradient, .rowSum, .activate, .activateBackward, .routerLogits, .route, .routeBackward,
    .zLoss, .jitter, .clear, .arrivalPlaces, .ranksOfTokens, .hopperGEMM, .hopperWeightGradient,
    .hopperRowPairs, .push,
  ]
}
