/// The packing functions; results are in memory of a workbench.
extension MatrixKernel {
  /// Rows in a form that the kernel can read: in place, or packed.
  func readable(
    _ rows: RowAddresses, depth: Int, on bench: Workbench, for purpose: Workbench.Purpose,
    addresses: Workbench.Purpose
  ) -> RowAddresses {
    if readsInPlace(depth: depth) { return rows }
    let memory = packedRows(count: rows.count, depth: depth, on: bench, for: purpose)
    unsafe packing.rows_from_rows(
      rows.pointer, rows.count, depth, memory.base, rowStride(depth: depth))
    return addressesOfPacked(rows.count, memory, depth: depth, on: bench, for: addresses)
  }

  /// Packs `features` columns of stored rows as rows for the kernel; the stored rows are the depths.
  func rows(
    fromDepths depths: RowAddresses, features: Range<Int>, on bench: Workbench
  ) -> RowAddresses {
    let width = features.count.roundedUp(to: rows).roundedUp(to: wordLanes)
    let memory = bench.memory(
      for: .packedRows, byteCount: words(of: depths.count) * width * wordSize)
    unsafe packing.depths_from_rows(
      depths.pointer, depths.count, features.lowerBound, features.count, width, width, memory.base)
    return unsafe RowAddresses(
      count: features.count, step: width, tileRows: rows, on: bench, for: .packedRowAddresses
    ) { unsafe UnsafeRawPointer(memory.base + $0 * wordSize) }
  }

  /// Packs one panel per range of rows, whose rows become its columns; each has at most a tile's columns.
  func panels(
    fromColumns rows: RowAddresses, _ ranges: [Range<Int>], depth: Int, on bench: Workbench
  ) -> [Panels] {
    let columns = ranges.reduce(0) { $0 + $1.count.roundedUp(to: lanes) }
    var next = unsafe panels(columns: columns, depth: depth, on: bench).memory
    return ranges.map { range in
      let panel = unsafe Panels(
        next, columns: range.count.roundedUp(to: lanes), depth: words(of: depth))
      unsafe packing.columns_from_rows(
        rows[range].pointer, range.count, depth, panel.columns, panel.memory)
      unsafe next += panel.columns * panel.depth * wordSize
      return panel
    }
  }

  /// Packs `columns` of stored rows as panels; the stored rows are the depths.
  func panels(
    fromDepths depths: RowAddresses, columns: Range<Int>, on bench: Workbench
  ) -> Panels {
    let panels = panels(columns: columns.count, depth: depths.count, on: bench)
    unsafe packing.depths_from_rows(
      depths.pointer, depths.count, columns.lowerBound, columns.count, self.columns, lanes,
      panels.memory)
    return panels
  }

  /// A range of the columns of panels, starting at the first column of a panel.
  func part(_ first: Int, _ count: Int, of panels: Panels) -> Panels {
    unsafe Panels(
      panels.memory + first * panels.depth * wordSize, columns: count.roundedUp(to: lanes),
      depth: panels.depth)
  }

  /// Allocates panels for `columns` columns, rounded up to whole vectors.
  func panels(columns: Int, depth: Int, on bench: Workbench) -> Panels {
    let columns = columns.roundedUp(to: lanes)
    let memory = bench.memory(
      for: .panels, byteCount: columns * words(of: depth) * wordSize)
    return unsafe Panels(memory.base, columns: columns, depth: words(of: depth))
  }

  /// Rounds rows of sums into a range of columns of stored rows.
  func store(
    _ sums: Elements<Wide>, stride: Int, into rows: RowAddresses, columns: Range<Int>
  ) {
    unsafe packing.store_rows(
      sums.pointer, stride, rows.count, columns.count, rows.targets, columns.lowerBound,
      rows.areStreamed ? 1 : 0)
  }

  /// Rounds sums that are stored column by column.
  func storeTransposed(
    _ sums: Elements<Wide>, stride: Int, into rows: RowAddresses, columns: Range<Int>
  ) {
    unsafe packing.store_transposed(
      sums.pointer, stride, columns.count, rows.count, rows.targets, columns.lowerBound,
      rows.areStreamed ? 1 : 0)
  }

  /// target[c][r] = sums[r][c]; both strides are multiples of a vector.
  func transpose(
    _ sums: Elements<Wide>, stride: Int, rows: Int, columns: Int, into target: Elements<Wide>,
    stride targetStride: Int
  ) {
    unsafe packing.transpose(
      sums.pointer, stride, rows, columns, target.pointer, targetStride)
  }

  private func packedRows(
    count: Int, depth: Int, on bench: Workbench, for purpose: Workbench.Purpose
  ) -> ScratchMemory {
    bench.memory(for: purpose, byteCount: count * rowStride(depth: depth) * wordSize)
  }

  private func addressesOfPacked(
    _ count: Int, _ memory: ScratchMemory, depth: Int, on bench: Workbench,
    for purpose: Workbench.Purpose
  ) -> RowAddresses {
    let stride = rowStride(depth: depth) * wordSize
    return unsafe RowAddresses(count: count, tileRows: rows, on: bench, for: purpose) { row in
      unsafe UnsafeRawPointer(memory.base + row * stride)
    }
  }
}
