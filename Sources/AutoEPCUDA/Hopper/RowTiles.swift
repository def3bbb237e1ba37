import AutoEPCore

/// The row tiles of all experts, in the pairs that clusters take; see sm90_tile_list.cu.
struct RowTiles {
  /// Of a tile.
  static let rowCount = 128

  /// `[pairs,2,4]` i32, with room for the most pairs there can be.
  let tiles: TensorView
  /// `[1]` i32.
  let pairCount: TensorView

  /// Takes the list's memory.
  init(_ arena: inout Arena, rows: Int, numExperts: Int) throws(EngineError) {
    tiles = try arena.take(Self.shape(rows: rows, numExperts: numExperts), .i32)
    pairCount = try arena.take([1], .i32)
  }

  /// Bytes that the list takes up.
  static func byteCount(rows: Int, numExperts: Int) -> Int {
    Arena.footprint(shape(rows: rows, numExperts: numExperts), .i32) + Arena.footprint([1], .i32)
  }

  /// Each expert has at most one tile that is not full.
  private static func shape(rows: Int, numExperts: Int) -> [Int] {
    let tiles = rows / rowCount + min(numExperts, rows)
    return [tiles / 2 + 1, 2, 4]
  }
}

extension CUDABackend {
  /// Lists the row tiles of `expertOffsets` [E+1].
  func list(_ tiles: RowTiles, expertOffsets: TensorView) throws(EngineError) {
    let numExperts = expertOffsets.shape[0] - 1
    try kernel(.hopperTileList, "sm90_list_tiles").launch(
      grid: 1, block: 512, sharedBytes: numExperts * DataType.i32.byteCount, on: stream,
      expertOffsets, Int32(numExperts), tiles.tiles, tiles.pairCount)
  }
}
