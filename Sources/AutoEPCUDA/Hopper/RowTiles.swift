import AutoEPCore
import AutoEPSystem
import CKernels

/// The list of row pairs, from which the clusters take their work; sm90_pipeline.cuh defines the terms.
struct RowTiles {
  /// The first row, number of rows and expert of each pair: `[pairs,3]` i32, for the largest possible number of pairs.
  let pairs: TensorView
  /// The number of tail tiles before each raster group and, last, of all tail tiles: `[groups+1]` i32.
  let tailTilesBefore: TensorView
  /// The number of pairs, `[1]` i32.
  let pairCount: TensorView

  /// Allocates the list.
  init(_ arena: inout Arena, rows: Int, numExperts: Int) throws(EngineError) {
    let most = Self.mostPairs(rows: rows, numExperts: numExperts)
    pairs = try arena.take(Self.pairsShape(most), .i32)
    tailTilesBefore = try arena.take(Self.groupsShape(most), .i32)
    pairCount = try arena.take([1], .i32)
  }

  /// An upper bound of the list's bytes, per token of K rows.
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

  /// Whether tail tiles come after all full pairs instead of last in their raster group. Above this depth,
  /// the rows of a group take more than 8 MiB and do not stay in the L2 cache beside the weights. Measured:
  /// tail tiles in their groups make products up to 12 % faster up to a depth of 2048, and slower above it.
  static func hasTailTilesLast(depth: Int) -> Bool { depth > 2048 }

  /// An upper bound: each expert has at most one pair that is not full.
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
