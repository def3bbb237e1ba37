/// A matrix in borrowed memory, with the distance of its rows and of its columns.
struct Matrix<S: Scalar> {
  private let elements: Elements<S>
  let rows: Int
  let columns: Int
  let rowStride: Int
  let columnStride: Int

  /// A dense row-major matrix.
  init(_ elements: Elements<S>, rows: Int, columns: Int) {
    self.init(elements, rows: rows, columns: columns, rowStride: columns, columnStride: 1)
  }

  private init(
    _ elements: Elements<S>, rows: Int, columns: Int, rowStride: Int, columnStride: Int
  ) {
    self.elements = elements
    self.rows = rows
    self.columns = columns
    self.rowStride = rowStride
    self.columnStride = columnStride
  }

  /// The same memory with rows and columns exchanged.
  var transposed: Matrix {
    Matrix(
      elements, rows: columns, columns: rows, rowStride: columnStride, columnStride: rowStride)
  }

  /// A part of the matrix.
  func block(rows: Range<Int>, columns: Range<Int>) -> Matrix {
    let first = rows.lowerBound * rowStride + columns.lowerBound * columnStride
    return Matrix(
      elements[min(first, elements.count)..<elements.count], rows: rows.count,
      columns: columns.count, rowStride: rowStride, columnStride: columnStride)
  }

  /// A part of a row of a row-major matrix.
  func row(_ row: Int, columns: Range<Int>) -> Elements<S> {
    assert(columnStride == 1)
    return elements[row * rowStride + columns.lowerBound..<row * rowStride + columns.upperBound]
  }

  /// The address of the first element, for C.
  var pointer: UnsafeMutablePointer<S>? { unsafe elements.pointer }
}

extension Matrix where S: RowScalar {
  /// Widens the block into panels of `panelRows` rows each, the last one filled up with zeros. In a
  /// panel the rows of one column follow each other.
  func pack(panelRows: Int, into packed: Elements<S.Wide>) {
    assert(packed.count >= (rows + panelRows - 1) / panelRows * panelRows * columns)
    unsafe S.pack(self, panelRows: panelRows, into: packed.pointer)
  }
}
