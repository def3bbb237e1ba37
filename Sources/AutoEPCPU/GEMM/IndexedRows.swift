import AutoEPCore
import CMicroKernels

/// The rows of experts, wherever they are placed: row r is the `place(r)`-th in memory.
struct IndexedRows<S: Scalar> {
  let width: Int
  private let elements: Elements<S>
  private let index: Elements<Int32>?
  /// Rows that share an entry's row in memory: K copies of a token.
  private let copies: Int
  private let lastPlace: Int

  /// The rows as they stand.
  init(_ elements: Elements<S>, width: Int) {
    self.elements = elements
    self.width = width
    index = nil
    copies = 1
    lastPlace = 0
  }

  /// The rows of a backend's caller.
  init(_ rows: ExpertRows) {
    elements = Elements(rows.tensor)
    width = rows.width
    lastPlace = rows.tensor.shape[0] - 1
    switch rows.placement {
    case .inOrder: (index, copies) = (nil, 1)
    case .indexed(let places): (index, copies) = (Elements(places), 1)
    case .tokens(let slots): (index, copies) = (Elements(slots.slotOfRow), slots.topK)
    }
  }

  /// Where a row is. An index that somebody else has written to still leads to a row.
  func place(_ row: Int) -> Int {
    guard let index else { return row }
    return min(max(Int(index[row]) / copies, 0), lastPlace)
  }

  /// A row.
  subscript(row: Int) -> Elements<S> { elements.row(place(row), width: width) }

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
