/// The product of two matrices, a [M, K] times b [K, N], computed tile by tile.
///
/// Each element is summed over K in blocks of one fixed depth, each block in order: its bits depend
/// on its row, its column and the kernel alone.
struct GEMMProduct<S: Scalar> {
  let a: Matrix<S>
  let b: Matrix<S>
  /// One value a column, added last.
  let bias: Elements<S>?
  let out: Matrix<S>

  /// Computes one tile of the result.
  func compute(
    _ tile: GEMMTile, _ blocking: GEMMBlocking, _ kernel: TileKernel<S.Wide>,
    _ scratch: GEMMScratch<S.Wide>
  ) {
    scratch.sums.fill(0)
    for start in stride(from: 0, to: a.columns, by: blocking.depth) {
      let depths = start..<min(start + blocking.depth, a.columns)
      a.pack(rows: tile.rows, columns: depths, panelRows: kernel.rows, into: scratch.a)
      b.transposed.pack(
        rows: tile.columns, columns: depths, panelRows: kernel.columns, into: scratch.b)
      multiplyPanels(tile, depth: depths.count, blocking, kernel, scratch)
    }
    store(scratch.sums, of: tile, stride: blocking.columns)
  }

  private func multiplyPanels(
    _ tile: GEMMTile, depth: Int, _ blocking: GEMMBlocking, _ kernel: TileKernel<S.Wide>,
    _ scratch: GEMMScratch<S.Wide>
  ) {
    for column in stride(from: 0, to: tile.columns.count, by: kernel.columns) {
      let b = scratch.b[column * depth..<(column + kernel.columns) * depth]
      for row in stride(from: 0, to: tile.rows.count, by: kernel.rows) {
        let a = scratch.a[row * depth..<(row + kernel.rows) * depth]
        let sums = scratch.sums[row * blocking.columns + column..<scratch.sums.count]
        kernel.multiplyAdd(depth: depth, a, b, to: sums, stride: blocking.columns)
      }
    }
  }

  private func store(_ sums: Elements<S.Wide>, of tile: GEMMTile, stride: Int) {
    for row in 0..<tile.rows.count {
      let rowSums = sums.row(row, width: stride)
      for column in 0..<tile.columns.count {
        let place = tile.columns.lowerBound + column
        let sum = bias.map { rowSums[column] + $0[place].wide } ?? rowSums[column]
        out[tile.rows.lowerBound + row, place] = S(rounding: sum)
      }
    }
  }
}
