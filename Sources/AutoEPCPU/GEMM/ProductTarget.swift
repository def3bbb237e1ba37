/// The place where a product will be written: element (r, c) goes to column `firstColumn` + c of the r-th row.
struct ProductTarget<S: RowScalar> {
  let rows: RowAddresses
  let firstColumn: Int

  /// Queues the memory of a block of the product for prefetching.
  func ask(_ lookahead: inout Lookahead, rows: Range<Int>, columns: Range<Int>) {
    lookahead.ask(for: self.rows[rows], bytes: S.bytes(place(of: columns)))
  }

  /// The columns of the target rows for a range of columns of the product.
  func place(of columns: Range<Int>) -> Range<Int> {
    firstColumn + columns.lowerBound..<firstColumn + columns.upperBound
  }
}
