import AutoEPCore
import AutoEPSystem

/// The row tiles of all experts, in the pairs that clusters take and the groups that run together; see
/// sm90_tile.cuh.
struct RowTiles {
  /// Rows of a pair; as in sm90_tile.cuh.
  private static let pairRows = 256
  /// Pairs of a group; as there.
  private static let raster = 8

  /// `[pairs,3]` i32, with room for the most pairs there can be.
  let pairs: TensorView
  /// Odd tiles before each group, and in the end those of all: `[groups+1]` i32.
  let singlesBefore: TensorView
  /// `[1]` i32.
  let pairCount: TensorView

  /// Takes the list's memory.
  init(_ arena: inout Arena, rows: Int, numExperts: Int) throws(EngineError) {
    let most = Self.mostPairs(rows: rows, numExperts: numExperts)
    pairs = try arena.take(Self.pairsShape(most), .i32)
    singlesBefore = try arena.take(Self.groupsShape(most), .i32)
    pairCount = try arena.take([1], .i32)
  }

  /// Bytes that the list takes up.
  static func byteCount(rows: Int, numExperts: Int) -> Int {
    let most = mostPairs(rows: rows, numExperts: numExperts)
    return [pairsShape(most), groupsShape(most), [1]].reduce(0) {
      $0 + Arena.footprint($1, .i32)
    }
  }

  /// Whether an expert's odd tile stands behind all pairs: where a group's rows, 8 MiB at this depth, are
  /// too many to stay in the L2 cache beside the weights. Measured: in the group products of a depth up to
  /// 2048 are up to 12 % faster, deeper ones slower.
  static func hasSinglesLast(depth: Int) -> Bool { depth > 2048 }

  /// Each expert has at most one pair that is not full.
  private static func mostPairs(rows: Int, numExperts: Int) -> Int {
    rows / pairRows + min(numExperts, rows)
  }

  private static func pairsShape(_ most: Int) -> [Int] { [most, 3] }

  private static func groupsShape(_ most: Int) -> [Int] { [(most + raster - 1) / raster + 1] }
}

extension CUDABackend {
  /// Lists the row tiles of `expertOffsets` [E+1] for products of at most this depth.
  func list(_ tiles: RowTiles, expertOffsets: TensorView, depth: Int) throws(EngineError) {
    let numExperts = expertOffsets.shape[0] - 1
    try kernel(.hopperTileList, "sm90_list_tiles").launch(
      grid: 1, block: 512, sharedBytes: 2 * numExperts * DataType.i32.byteCount, on: stream,
      expertOffsets, Int32(numExperts), RowTiles.hasSinglesLast(depth: depth) ? 1 as Int32 : 0,
      tiles.pairs, tiles.singlesBefore, tiles.pairCount)
  }
}
