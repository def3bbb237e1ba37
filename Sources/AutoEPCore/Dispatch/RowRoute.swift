/// How the rows of a plan travel between ranks.
struct RowRoute {
  /// How many go where.
  let splits: RowSplits
  /// Where each row of this rank's experts, in expert order, stands among those that arrive: `[R]` i32.
  let arrivals: TensorView
}

/// How many rows go where.
struct RowSplits: Sendable {
  /// Rows to each rank, `[P]`.
  let sendRows: [Int]
  /// Rows from each rank, `[P]`.
  let receiveRows: [Int]
  /// R, the rows of this rank's experts: what arrives, or what is made of the tokens that arrive.
  let rows: Int

  /// Combines the counts; R is the sum of what arrives if it is not given.
  init(sendRows: [Int], receiveRows: [Int], rows: Int? = nil) {
    (self.sendRows, self.receiveRows) = (sendRows, receiveRows)
    self.rows = rows ?? receiveRows.reduce(0, +)
  }

  var sent: Int { sendRows.reduce(0, +) }
  var received: Int { receiveRows.reduce(0, +) }
}
