extension Matrix {
  /// Widens the block of `rows` and `columns` into panels of `panelRows` rows each. In a panel the
  /// rows of one column follow each other; those past the block are zero.
  func pack(rows: Range<Int>, columns: Range<Int>, panelRows: Int, into packed: Elements<S.Wide>) {
    var next = 0
    for panelStart in stride(from: rows.lowerBound, to: rows.upperBound, by: panelRows) {
      let panel = panelStart..<min(panelStart + panelRows, rows.upperBound)
      let target = packed[next..<next + panelRows * columns.count]
      packPanel(rows: panel, columns: columns, panelRows: panelRows, into: target)
      next += target.count
    }
  }

  private func packPanel(
    rows: Range<Int>, columns: Range<Int>, panelRows: Int, into packed: Elements<S.Wide>
  ) {
    for (depth, column) in columns.enumerated() {
      let target = packed.row(depth, width: panelRows)
      for row in 0..<rows.count { target[row] = self[rows.lowerBound + row, column].wide }
      for row in rows.count..<panelRows { target[row] = 0 }
    }
  }
}
