import AutoEPCore
import CMicroKernels

/// The rows of experts in any placement: row r is at position `place(r)` in memory.
struct IndexedRows<S: Scalar> {
  let width: Int
  private let elements: Elements<S>
  private let index: Elements<Int32>?
  /// The rows that share one row in memory: K for the copies of a token.
  private let copies: Int
  private let lastPlace: Int

  /// Rows in order.
  init(_ elements: Elements<S>, width: Int) {
    self.elements = elements
    self.width = width
    index = nil
    copies = 1
    lastPlace = 0
  }

  /// The rows of `ExpertRows`.
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

  /// The position of a row, clamped so that a corrupted index cannot lead out of bounds.
  func place(_ row: Int) -> Int {
    guard let index else { return row }
    return min(max(Int(index[row]) / copies, 0), lastPlace)
  }

  /// A row.
  subscript(row: Int) -> Elements<S> { elements.row(place(row), width: width) }

  /// The addresses of a range of rows, padded to whole tiles.
  func addresses(
    _ rows: Range<Int>, tileRows: Int = 1, on bench: Workbench, for purpose: Workbench.Purpose
  ) -> RowAddresses {
    unsafe RowAddresses(count: rows.count, tileRows: tileRows, on: bench, for: purpose) {
      unsafe UnsafeRawPointer(self[rows.lowerBound + $0].pointer)
    }
  }

  /// The addresses of a range of rows to write. Rows of a large matrix that start on cache lines are streamed:
  /// ordinary stores would evict data that is still needed, and read each line from memory before writing it.
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

  /// The share of the last-level cache that a core can count on.
  private static var leastStreamedBytes: Int { 4 << 20 }
}
