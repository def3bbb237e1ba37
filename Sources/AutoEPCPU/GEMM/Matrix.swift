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

  subscript(row: Int, column: Int) -> S {
    get { elements[row * rowStride + column * columnStride] }
    nonmutating set { elements[row * rowStride + column * columnStride] = newValue }
  }
}
