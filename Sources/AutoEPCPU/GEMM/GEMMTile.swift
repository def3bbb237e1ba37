/// One block of the result of one group, small enough for the caches of a core.
struct GEMMTile {
  let group: Int
  let rows: Range<Int>
  let columns: Range<Int>
}

/// The sizes of the blocks that a product is made in. None of them changes a result but `depth`,
/// which is the same for every product.
struct GEMMBlocking {
  /// The most rows of a tile: their packed block, of 256 KiB, stays in the second-level cache.
  let rows: Int
  /// The most columns of a tile, which go through that cache once a block of depths.
  let columns: Int
  /// Products that are summed up before they are added to the result.
  let depth = 256

  private let kernelRows: Int
  private let kernelColumns: Int

  init<R: Real>(_ kernel: TileKernel<R>) {
    let wholeRows = 1024 / MemoryLayout<R>.stride
    kernelRows = kernel.rows
    kernelColumns = kernel.columns
    rows = max(wholeRows / kernel.rows, 1) * kernel.rows
    columns = max(2 * wholeRows / kernel.columns, 1) * kernel.columns
  }

  /// The tiles of all groups' results.
  func tiles(groups: [(rows: Int, columns: Int)]) -> [GEMMTile] {
    var tiles: [GEMMTile] = []
    for (group, size) in groups.enumerated() {
      for rows in evenParts(of: size.rows, most: rows, unit: kernelRows) {
        for columns in evenParts(of: size.columns, most: columns, unit: kernelColumns) {
          tiles.append(GEMMTile(group: group, rows: rows, columns: columns))
        }
      }
    }
    return tiles
  }

  /// Cuts a length into the fewest parts of at most `most`, about equal, in whole units.
  private func evenParts(of length: Int, most: Int, unit: Int) -> [Range<Int>] {
    guard length > 0 else { return [] }
    let partCount = (length - 1) / most + 1
    let part = ((length - 1) / partCount + 1).roundedUp(to: unit)
    return stride(from: 0, to: length, by: part).map { $0..<min($0 + part, length) }
  }
}

extension Int {
  /// The next multiple of a divisor.
  func roundedUp(to divisor: Int) -> Int { (self + divisor - 1) / divisor * divisor }
}
