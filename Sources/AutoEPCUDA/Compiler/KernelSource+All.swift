extension KernelSource {
  /// Every source there is, so that a test can compile each.
  static let all: [KernelSource] = [.hopperGEMM, .hopperWeightGradient, .hopperTileList]
}
