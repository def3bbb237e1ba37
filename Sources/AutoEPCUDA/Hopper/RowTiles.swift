import AutoEPCore
import AutoEPSystem
import CKernels

/// The list of row pairs, which the clusters take their work from; sm90_pipeline.cuh explains the words.
struct RowTiles {
  /// First row, number of rows and expert of each pair: `[pairs,3]` i32, with room for the most pairs
  /// there can be.
  let pairs: TensorView
  /// The number of tail tiles before each raster group and, last, of all: `[groups+1]` i32.
  let tailTilesBefore: TensorView
  /// `[1]` i32.
  let pairCount: TensorView

  /// Takes the list from the arena.
  init(_ arena: inout Arena, rows: Int, numExperts: Int) throws(EngineError) {
    let most = Self.mostPairs(rows: rows, numExperts: numExperts)
    pairs = try arena.take(Self.pairsShape(most), .i32)
    tailTilesBefore = try arena.take(Self.groupsShape(most), .i32)
    pairCount = try arena.take([1], .i32)
  }

  /// Bytes that the list takes up at most, per token of K rows.
  static func byteCount(topK: Int, numExperts: Int) -> ByteCount {
    let pairBytes = ROW_PAIR_INTS * 4
    let pairRows = 2 * TILE_M
    return .part(byteCount: numExperts * pairBytes)
      + .part(byteCount: (numExperts / RASTER + 3) * 4) + .part(byteCount: 4)
      + ByteCount(
        fixed: 2 * Arena.alignment,
        perItem: (topK * pairBytes + pairRows - 1) / pairRows
          + (topK * 4 + pairRows * RASTER - 1) / (pairRows * RASTER))
  }

  /// Whether tail tiles come after all full pairs instead of last in their raster group. Above this depth
  /// the rows of a group take more than 8 MiB and do not stay in the L2 cache beside the weights. Measured:
  /// with tail tiles in their groups, products are up to 12 % faster up to a depth of 2048, and slower
  /// beyond.
  static func hasTailTilesLast(depth: Int) -> Bool { depth > 2048 }

  /// Each expert has at most one pair of fewer rows.
  private static func mostPairs(rows: Int, numExperts: Int) -> Int {
    rows / (2 * TILE_M) + min(numExperts, rows)
  }

  private static func pairsShape(_ most: Int) -> [Int] { [most, ROW_PAIR_INTS] }

  private static func groupsShape(_ most: Int) -> [Int] { [(most + RASTER - 1) / RASTER + 1] }
}

extension CUDABackend {
  /// Lists the row pairs of `expertOffsets` [E+1] for products of at most this depth.
  func list(_ tiles: RowTiles, expertOffsets: TensorView, depth: Int) throws(EngineError) {
    let numExperts = expertOffsets.shape[0] - 1
    try kernel(.hopperRowPairs, "sm90_list_row_pairs").launch(
      grid: 1, block: LaunchSize(LIST_THREADS),
      sharedBytes: 2 * numExperts * DataType.i32.byteCount, on: stream,
      expertOffsets, Int32(numExperts), RowTiles.hasTailTilesLast(depth: depth) ? 1 as Int32 : 0,
      tiles.pairs, tiles.tailTilesBefore, tiles.pairCount)
  }
}
