import AutoEPCore
import AutoEPSystem

extension KernelSource {
  static let ranksOfTokens = KernelSource(
    "ranks_of_tokens.cu", PackageResources.ranks_of_tokens_cu,
    axes: [KernelVariant.each("INDEX_BYTES", [4, 8])])
}

/// The ranks that each token goes to, and its choices as each rank numbers them.
extension CUDABackend {
  /// ranks[t,p] = p if one of token t's experts is on rank p, else -1.
  public func ranksOfTokens(
    _ topkIdx: TensorView, numExperts: Int, into ranks: TensorView
  ) throws(EngineError) {
    guard ranks.elementCount > 0 else { return }
    let sizes = try RankSizes(topkIdx, numExperts: numExperts, numRanks: ranks.shape[1])
    try kernel(.ranksOfTokens, "ranks_of_tokens", sizes.defines).launch(
      grid: LaunchSize(blocks(warps: (ranks.elementCount + 31) / 32)), block: 256, on: stream,
      topkIdx, ranks, Int64(ranks.elementCount), sizes.numRanks, sizes.topK, sizes.numExperts,
      sizes.perRank)
  }

  /// choices[rowOfSlot[t,p],k] = topkIdx[t,k], counted from the first expert of rank p; -1 if it is none of them.
  public func choicesOfRanks(
    _ topkIdx: TensorView, numExperts: Int, rowOfSlot: TensorView, into choices: TensorView
  ) throws(EngineError) {
    guard rowOfSlot.elementCount > 0 else { return }
    let sizes = try RankSizes(topkIdx, numExperts: numExperts, numRanks: rowOfSlot.shape[1])
    try kernel(.ranksOfTokens, "choices_of_ranks", sizes.defines).launch(
      grid: LaunchSize(blocks(warps: (rowOfSlot.elementCount + 31) / 32)), block: 256, on: stream,
      topkIdx, rowOfSlot, choices, Int64(rowOfSlot.elementCount), sizes.numRanks, sizes.topK,
      sizes.numExperts, sizes.perRank, kernelInt(choices.shape[0], "T * P"))
  }
}

/// The sizes that both kernels take.
private struct RankSizes {
  let defines: KernelSource.Defines
  let numRanks: Int32
  let topK: Int32
  let numExperts: Int32
  let perRank: Int32

  init(_ topkIdx: TensorView, numExperts: Int, numRanks: Int) throws(EngineError) {
    defines = KernelVariant.define("INDEX_BYTES", topkIdx.dtype.byteCount)
    self.numRanks = try kernelInt(numRanks, "the number of ranks")
    topK = try kernelInt(topkIdx.shape[1], "K")
    self.numExperts = try kernelInt(numExperts, "num_experts")
    perRank = try kernelInt(
      expertRange(numExperts: numExperts, numRanks: numRanks, rank: 0).count, "experts per rank")
  }
}
