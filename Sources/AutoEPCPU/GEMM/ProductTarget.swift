/// Where a product will be written: column c of its r-th row is that of number `firstColumn` + c in the
/// r-th of some rows.
struct ProductTarget<S: RowScalar> {
  let rows: RowAddresses
  let firstColumn: Int

  /// Asks for the place of a block of the product.
  func ask(_ lookahead: inout Lookahead, rows: Range<Int>, columns: Range<Int>) {
    lookahead.ask(for: self.rows[rows], bytes: S.bytes(place(of: columns)))
  }

  /// The columns of these rows that get some columns of the product.
  func place(of columns: Range<Int>) -> Range<Int> {
    firstColumn + columns.lowerBound..<firstColumn + columns.upperBound
  }
}
