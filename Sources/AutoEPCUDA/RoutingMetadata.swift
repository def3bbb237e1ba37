import AutoEPCore

/// Where each copy goes, in the caller's device memory: made by a forward, read by its backward.
struct RoutingMetadata {
  /// First row of each expert, `[E+1]` i32; the last is the number of rows in use, N without the
  /// slots that were dropped.
  let expertOffsets: TensorView
  /// Row of each slot, `[T,K]` i32; -1 for one that was dropped.
  let rowOfSlot: TensorView
  /// Slot of each row, `[N]` i32; the dropped ones come last.
  let slotOfRow: TensorView
  /// The sort's own: slots of each expert in each of its runs of slots, `[E+1,runs]` i32.
  let chunkCounts: TensorView
  /// The sort's own: slots of each expert, and those dropped, `[E+1]` i32.
  let bucketCounts: TensorView

  /// Runs of slots that the sort cuts its work into; as in sort_by_expert.cu.
  static let chunkCount = 128

  /// Lays the arrays out.
  init(_ arena: Arena, numTokens: Int, topK: Int, numExperts: Int) throws(EngineError) {
    var arena = arena
    let shapes = Self.shapes(numTokens: numTokens, topK: topK, numExperts: numExperts)
    expertOffsets = try arena.take(shapes.expertOffsets, .i32)
    rowOfSlot = try arena.take(shapes.rowOfSlot, .i32)
    slotOfRow = try arena.take(shapes.slotOfRow, .i32)
    chunkCounts = try arena.take(shapes.chunkCounts, .i32)
    bucketCounts = try arena.take(shapes.bucketCounts, .i32)
  }

  /// Bytes that the arrays take up.
  static func byteCount(numTokens: Int, topK: Int, numExperts: Int) -> Int {
    let shapes = shapes(numTokens: numTokens, topK: topK, numExperts: numExperts)
    return [
      shapes.expertOffsets, shapes.rowOfSlot, shapes.slotOfRow, shapes.chunkCounts,
      shapes.bucketCounts,
    ].reduce(0) { $0 + Arena.footprint($1, .i32) }
  }

  private typealias Shapes = (
    expertOffsets: [Int], rowOfSlot: [Int], slotOfRow: [Int], chunkCounts: [Int],
    bucketCounts: [Int]
  )

  private static func shapes(numTokens: Int, topK: Int, numExperts: Int) -> Shapes {
    (
      [numExperts + 1], [numTokens, topK], [numTokens * topK], [numExperts + 1, chunkCount],
      [numExperts + 1]
    )
  }
}
