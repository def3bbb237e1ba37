import AutoEPCore
import AutoEPSystem

/// Where each copy goes, in the caller's device memory: made by a forward, read by its backward.
struct RoutingMetadata {
  /// First row of each expert, `[E+1]` i32; the last is the number of rows in use, N without the
  /// slots that were dropped.
  let expertOffsets: TensorView
  /// Row of each slot, `[T,K]` i32; -1 for one that was dropped.
  let rowOfSlot: TensorView
  /// Slot of each row, `[N]` i32; the dropped ones come last.
  let slotOfRow: TensorView
  /// For Hopper's products; nil where they do not take the layer.
  let tiles: RowTiles?

  /// Lays the arrays out.
  init(
    _ arena: Arena, numTokens: Int, topK: Int, numExperts: Int, hasTiles: Bool
  ) throws(EngineError) {
    var arena = arena
    let rows = numTokens * topK
    expertOffsets = try arena.take([numExperts + 1], .i32)
    rowOfSlot = try arena.take([numTokens, topK], .i32)
    slotOfRow = try arena.take([rows], .i32)
    tiles = hasTiles ? try RowTiles(&arena, rows: rows, numExperts: numExperts) : nil
  }

  /// Bytes that the arrays take up.
  static func byteCount(numTokens: Int, topK: Int, numExperts: Int, hasTiles: Bool) -> Int {
    let rows = numTokens * topK
    return Arena.footprint([numExperts + 1], .i32) + 2 * Arena.footprint([rows], .i32)
      + (hasTiles ? RowTiles.byteCount(rows: rows, numExperts: numExperts) : 0)
  }
}
