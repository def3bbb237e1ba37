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

  /// Rows for the kernel whose depths are rows in memory: `features` of each.
  func rows(
    fromDepths depths: RowAddresses, features: Range<Int>, on bench: Workbench
  ) -> RowAddresses {
    let memory = packedRows(
      count: features.count, depth: depths.count, on: bench, for: .packedRows)
    unsafe packing.rows_from_depths(
      depths.pointer, depths.count, features.lowerBound, features.count, memory.base,
      rowStride(depth: depths.count))
    return addressesOfPacked(
      features.count, memory, depth: depths.count, on: bench, for: .packedRowAddresses)
  }

  /// A panel whose columns are rows in memory.
  func packColumns(_ rows: RowAddresses, depth: Int, into panel: Panel) {
    unsafe packing.columns_from_rows(
      rows.pointer, rows.count, depth, panel.columns, panel.memory)
  }

  /// Panels whose depths are rows in memory: `columns` of each, in full panels but for the last.
  func panels(
    fromDepths depths: RowAddresses, columns: Range<Int>, on bench: Workbench,
    for purpose: Workbench.Purpose
  ) -> [(columns: Range<Int>, panel: Panel)] {
    let ranges = columns.chunks(of: self.columns)
    let panels = panels(ranges, depth: depths.count, on: bench, for: purpose)
    guard let memory = unsafe panels.first?.memory else { return [] }
    unsafe packing.depths_from_rows(
      depths.pointer, depths.count, columns.lowerBound, columns.count, self.columns, lanes,
      memory)
    return zip(ranges, panels).map { ($0, $1) }
  }

  /// Memory for panels of so many columns, one after the other.
  func panels(
    _ columns: [Range<Int>], depth: Int, on bench: Workbench, for purpose: Workbench.Purpose
  ) -> [Panel] {
    let widths = columns.map { $0.count.roundedUp(to: lanes) }
    let columnBytes = words(of: depth) * wordSize
    let memory = bench.memory(for: purpose, byteCount: widths.reduce(0, +) * columnBytes)
    var first = 0
    return widths.map { width in
      defer { first += width }
      return unsafe Panel(memory.base + first * columnBytes, columns: width)
    }
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
