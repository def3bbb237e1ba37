/// The packing functions on pieces of a workbench.
extension MatrixKernel {
  /// Rows as the kernel reads them: where they are, or packed.
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

  /// Rows for the kernel whose depths are rows in memory: `features` of each, packed side by side.
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

  /// A panel whose columns are rows in memory.
  func packColumns(_ rows: RowAddresses, depth: Int, into panel: Panel) {
    unsafe packing.columns_from_rows(
      rows.pointer, rows.count, depth, panel.columns, panel.memory)
  }

  /// Panels whose depths are rows in memory: `columns` of each, in full panels but for the last.
  func panels(
    fromDepths depths: RowAddresses, columns: Range<Int>, on bench: Workbench
  ) -> [Panel] {
    let panels = panels(columns.chunks(of: self.columns), depth: depths.count, on: bench)
    guard let memory = unsafe panels.first?.memory else { return [] }
    unsafe packing.depths_from_rows(
      depths.pointer, depths.count, columns.lowerBound, columns.count, self.columns, lanes,
      memory)
    return panels
  }

  /// Memory for panels of so many columns, one after the other.
  func panels(_ columns: [Range<Int>], depth: Int, on bench: Workbench) -> [Panel] {
    let widths = columns.map { $0.count.roundedUp(to: lanes) }
    let columnBytes = words(of: depth) * wordSize
    let memory = bench.memory(for: .panels, byteCount: widths.reduce(0, +) * columnBytes)
    var first = 0
    return widths.map { width in
      defer { first += width }
      return unsafe Panel(memory.base + first * columnBytes, columns: width)
    }
  }

  /// Rounds rows of sums into some columns of stored rows.
  func store(
    _ sums: Elements<Wide>, stride: Int, into rows: RowAddresses, columns: Range<Int>
  ) {
    unsafe packing.store_rows(
      sums.pointer, stride, rows.count, columns.count, rows.targets, columns.lowerBound)
  }

  /// The same of sums whose columns are kept one after the other.
  func storeTransposed(
    _ sums: Elements<Wide>, stride: Int, into rows: RowAddresses, columns: Range<Int>
  ) {
    unsafe packing.store_transposed(
      sums.pointer, stride, columns.count, rows.count, rows.targets, columns.lowerBound)
  }

  /// target[c][r] = sums[r][c]; the strides are multiples of whole vectors.
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
