import AutoEPCore
import AutoEPSystem
import CKernels

extension KernelSource {
  static let sortByExpert = KernelSource(
    "sort_by_expert.cu", PackageResources.sort_by_expert_cu,
    axes: [KernelVariant.each("INDEX_BYTES", [4, 8])])
}

extension CUDABackend {
  /// Sorts the slots by expert (stable counting sort): with one block if there are few slots or no scratch memory,
  /// otherwise with three launches.
  public func sort(
    _ topkIdx: TensorView, numExperts: Int, into sort: SlotSort, _ arena: inout Arena
  ) throws(EngineError) {
    let launches = try SortLaunches(topkIdx, numExperts: numExperts, on: self)
    let hasMemory = arena.byteCount - arena.used >= sortScratchBytes(numExperts: numExperts)
    guard let offsets = sort.offsets, hasMemory,
      topkIdx.elementCount > SortLaunches.mostInOneBlock
    else { return try launches.inOneBlock(sort) }
    try arena.scope { (arena) throws(EngineError) in
      try launches.inChunks(sort, offsets, SortCounts(&arena, numExperts: numExperts))
    }
  }

  /// The bytes of the counts that are passed between launches.
  public func sortScratchBytes(numExperts: Int) -> Int {
    SortCounts.byteCount(numExperts: numExperts)
  }
}

/// The counters shared by the launches of one sort.
struct SortCounts {
  /// The chunks that the slots are split into.
  static let chunkCount = SORT_CHUNKS

  /// The slots of each bucket (an expert, or none) in each chunk: `[E+1,chunks]` i32.
  let ofChunks: TensorView
  /// The slots of each bucket: `[E+1]` i32.
  let ofBuckets: TensorView

  /// Allocates the counters.
  init(_ arena: inout Arena, numExperts: Int) throws(EngineError) {
    ofChunks = try arena.take([numExperts + 1, Self.chunkCount], .i32)
    ofBuckets = try arena.take([numExperts + 1], .i32)
  }

  /// The bytes of the counters.
  static func byteCount(numExperts: Int) -> Int {
    Arena.footprint([numExperts + 1, chunkCount], .i32) + Arena.footprint([numExperts + 1], .i32)
  }
}

/// The launches of one sort.
private struct SortLaunches {
  /// The most slots that one block sorts faster than three launches do.
  static let mostInOneBlock = 2048

  private let topkIdx: TensorView
  private let numExperts: Int32
  private let backend: CUDABackend
  private let defines: KernelSource.Defines
  /// The warps per block, each with its own counters.
  private let warps: Int
  private let bucketBytes: Int

  init(_ topkIdx: TensorView, numExperts: Int, on backend: CUDABackend) throws(EngineError) {
    self.topkIdx = topkIdx
    self.numExperts = try kernelInt(numExperts, "num_experts")
    self.backend = backend
    defines = KernelVariant.define("INDEX_BYTES", topkIdx.dtype.byteCount)
    bucketBytes = 4 * (numExperts + 1)
    let limit = backend.device.sharedBytesPerBlock
    guard
      let warps = [16, 8, 4, 2, 1].first(where: { [bucketBytes] in
        ($0 + 1) * bucketBytes <= limit
      })
    else {
      throw EngineError(
        .unsupported,
        "num_experts is \(numExperts); expected at most \(limit / 8 - 1) on this CUDA"
          + " device")
    }
    self.warps = warps
  }

  func inOneBlock(_ sort: SlotSort) throws(EngineError) {
    try backend.kernel(.sortByExpert, "sort_in_one_block", defines).launch(
      grid: 1, block: LaunchSize(32 * warps), sharedBytes: (warps + 1) * bucketBytes,
      on: backend.stream, topkIdx, Int64(topkIdx.elementCount), numExperts, sort.offsets,
      sort.rowOfSlot, sort.slotOfRow, sort.tokensPerExpert, backend.device.faults.address)
  }

  func inChunks(
    _ sort: SlotSort, _ offsets: TensorView, _ counts: SortCounts
  ) throws(EngineError) {
    let chunks = LaunchSize(SortCounts.chunkCount)
    let slotCount = Int64(topkIdx.elementCount)
    try backend.kernel(.sortByExpert, "sort_count", defines).launch(
      grid: chunks, block: 512, sharedBytes: bucketBytes, on: backend.stream, topkIdx, slotCount,
      numExperts, counts.ofChunks, backend.device.faults.address)
    try backend.kernel(.sortByExpert, "sort_scan", defines).launch(
      grid: LaunchSize((Int(numExperts) + 8) / 8), block: 256, on: backend.stream, numExperts,
      counts.ofChunks, counts.ofBuckets, sort.tokensPerExpert)
    try backend.kernel(.sortByExpert, "sort_place", defines).launch(
      grid: chunks, block: LaunchSize(32 * warps), sharedBytes: (warps + 1) * bucketBytes,
      on: backend.stream, topkIdx, slotCount, numExperts, counts.ofChunks,
      counts.ofBuckets, offsets, sort.rowOfSlot, sort.slotOfRow)
  }
}
