import AutoEPCore

extension CUDABackend {
  /// The stable counting sort of the slots by expert, in three launches; a choice outside [0, E) is
  /// dropped and reported. `tokensPerExpert` [E] i32 or nil.
  func sort(
    _ topkIdx: TensorView, numExperts: Int, into routing: RoutingMetadata,
    tokensPerExpert: TensorView?
  ) throws(EngineError) {
    let defines = ["INDEX_BYTES=\(topkIdx.dtype.byteCount)"]
    let (slots, experts) = (Int64(topkIdx.elementCount), Int32(numExperts))
    let buckets = numExperts + 1
    let chunks = LaunchSize(RoutingMetadata.chunkCount)
    let warps = sortWarps(buckets: buckets)
    try kernel(.sortByExpert, "sort_count", defines).launch(
      grid: chunks, block: 512, sharedBytes: 4 * buckets, on: stream, topkIdx, slots, experts,
      routing.chunkCounts, device.faults.address)
    try kernel(.sortByExpert, "sort_scan", defines).launch(
      grid: LaunchSize((buckets + 7) / 8), block: 256, on: stream, experts, routing.chunkCounts,
      routing.bucketCounts, tokensPerExpert)
    try kernel(.sortByExpert, "sort_place", defines).launch(
      grid: chunks, block: LaunchSize(32 * warps), sharedBytes: 4 * (warps + 1) * buckets,
      on: stream, topkIdx, slots, experts, routing.chunkCounts, routing.bucketCounts,
      routing.expertOffsets, routing.rowOfSlot, routing.slotOfRow)
  }

  /// Warps whose counters fit a block's shared memory: 16, fewer for many experts.
  func sortWarps(buckets: Int) -> Int {
    max(1, min(16, device.sharedBytesPerBlock / (4 * buckets) - 1))
  }
}
