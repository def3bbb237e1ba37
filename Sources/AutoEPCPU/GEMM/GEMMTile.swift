/// One block of the result of one group, small enough for the caches of a core.
struct GEMMTile {
  let group: Int
  let rows: Range<Int>
  let columns: Range<Int>
}

/// The sizes of the blocks that a product is made in. None of them changes a result but `depth`,
/// which is the same for every product.
struct GEMMBlocking {
  let rows: Int
  let columns: Int
  /// Products that are summed up before they are added to the result.
  let depth: Int

  /// About 256 KiB for each of the two packed blocks and the sums: a second-level cache.
  init<R: Real>(_ kernel: TileKernel<R>) {
    let side = R.self == Double.self ? 192 : 256
    rows = max(side / kernel.rows, 1) * kernel.rows
    columns = max(side / kernel.columns, 1) * kernel.columns
    depth = 256
  }

  /// The tiles of all groups' results.
  func tiles(groups: [(rows: Int, columns: Int)]) -> [GEMMTile] {
    var tiles: [GEMMTile] = []
    for (group, size) in groups.enumerated() {
      for row in stride(from: 0, to: size.rows, by: rows) {
        for column in stride(from: 0, to: size.columns, by: columns) {
          tiles.append(
            GEMMTile(
              group: group, rows: row..<min(row + rows, size.rows),
              columns: column..<min(column + columns, size.columns)))
        }
      }
    }
    return tiles
  }
}
