/// The product of two matrices, a [M, K] times b [K, N], computed tile by tile.
///
/// Each element is summed over K in blocks of one fixed depth, each block in order: its bits depend
/// on the values of its row and column and on the kernel alone.
struct GEMMProduct<S: RowScalar> {
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
    let rowStride = tile.columns.count.roundedUp(to: kernel.columns)
    let sums = scratch.sums[0..<tile.rows.count.roundedUp(to: kernel.rows) * rowStride]
    sums.fill(0)
    for start in stride(from: 0, to: a.columns, by: blocking.depth) {
      let depths = start..<min(start + blocking.depth, a.columns)
      a.block(rows: tile.rows, columns: depths).pack(panelRows: kernel.rows, into: scratch.a)
      b.block(rows: depths, columns: tile.columns).transposed
        .pack(panelRows: kernel.columns, into: scratch.b)
      multiplyPanels(tile, depth: depths.count, kernel, scratch, into: sums, rowStride: rowStride)
    }
    store(sums, of: tile, rowStride: rowStride)
  }

  private func multiplyPanels(
    _ tile: GEMMTile, depth: Int, _ kernel: TileKernel<S.Wide>, _ scratch: GEMMScratch<S.Wide>,
    into sums: Elements<S.Wide>, rowStride: Int
  ) {
    for column in stride(from: 0, to: tile.columns.count, by: kernel.columns) {
      let b = scratch.b[column * depth..<(column + kernel.columns) * depth]
      for row in stride(from: 0, to: tile.rows.count, by: kernel.rows) {
        let a = scratch.a[row * depth..<(row + kernel.rows) * depth]
        let place = row * rowStride + column
        kernel.multiplyAdd(depth: depth, a, b, to: sums[place..<sums.count], stride: rowStride)
      }
    }
  }

  private func store(_ sums: Elements<S.Wide>, of tile: GEMMTile, rowStride: Int) {
    let bias = bias?[tile.columns]
    for (index, row) in tile.rows.enumerated() {
      let sums = sums.row(index, width: rowStride)
      if let bias { sums.add(bias) }
      out.row(row, columns: tile.columns).store(sums)
    }
  }
}
