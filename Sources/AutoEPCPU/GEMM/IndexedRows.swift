import AutoEPCore
import CMicroKernels

/// Rows of a matrix, in the order that an index gives them: row r is the index[r]-th in memory.
struct IndexedRows<S: Scalar> {
  let width: Int
  private let elements: Elements<S>
  private let index: Elements<Int32>?

  /// The rows as they stand.
  init(_ elements: Elements<S>, width: Int) {
    self.elements = elements
    self.width = width
    index = nil
  }

  /// The rows of a backend's caller, who has checked the index.
  init(_ rows: OrderedRows) {
    elements = Elements(rows.tensor)
    width = rows.tensor.shape[1]
    index = rows.index.map { Elements($0) }
  }

  /// A row.
  subscript(row: Int) -> Elements<S> {
    elements.row(index.map { Int($0[row]) } ?? row, width: width)
  }

  /// The addresses of some rows, padded to whole tiles.
  func addresses(
    _ rows: Range<Int>, tileRows: Int = 1, on bench: Workbench, for purpose: Workbench.Purpose
  ) -> RowAddresses {
    unsafe RowAddresses(count: rows.count, tileRows: tileRows, on: bench, for: purpose) {
      unsafe UnsafeRawPointer(self[rows.lowerBound + $0].pointer)
    }
  }

  /// The addresses of some rows that will be written. Those of a large matrix are streamed where they begin
  /// on cache lines: it would push out of the caches what is still needed, and be read from memory first.
  func targets(
    _ rows: Range<Int>, on bench: Workbench, for purpose: Workbench.Purpose
  ) -> RowAddresses {
    unsafe RowAddresses(
      count: rows.count, areStreamed: isStreamed, on: bench, for: purpose
    ) { unsafe UnsafeRawPointer(self[rows.lowerBound + $0].pointer) }
  }

  private var isStreamed: Bool {
    let base = UInt(bitPattern: unsafe elements.pointer)
    let rowBytes = width * MemoryLayout<S>.stride
    return STREAMS_LINES != 0 && base % 64 == 0 && rowBytes % 64 == 0
      && elements.count * MemoryLayout<S>.stride >= Self.leastStreamedBytes
  }

  /// A part of the last cache that a core may count on.
  private static var leastStreamedBytes: Int { 4 << 20 }
}
