import AutoEPCore
import AutoEPSystem

/// The row of each routed copy, checked.
struct RowOfSlot {
  let numTokens: Int
  let topK: Int
  private let rows: [Int]

  /// Reads `[T, K]`; throws for the first row outside `0..<rowCount`.
  init(_ tensor: TensorView, rowCount: Int) throws(EngineError) {
    numTokens = tensor.shape[0]
    topK = tensor.shape[1]
    rows = try tensor.integers()
    if let slot = rows.firstIndex(where: { $0 < 0 || $0 >= rowCount }) {
      throw EngineError(
        .invalidArgument,
        "row_of_slot holds \(rows[slot]) at slot \(slot); expected 0 to \(rowCount - 1)")
    }
  }

  /// The row of a token's k-th copy.
  subscript(token: Int, k: Int) -> Int { rows[token * topK + k] }

  /// Throws unless each of `rowCount` rows has exactly one slot.
  func checkPermutation(rowCount: Int) throws(EngineError) {
    var isTaken = [Bool](repeating: false, count: rowCount)
    for (slot, row) in rows.enumerated() {
      guard !isTaken[row] else {
        throw EngineError(
          .invalidArgument,
          "row_of_slot holds \(row) again at slot \(slot); expected a permutation of the rows")
      }
      isTaken[row] = true
    }
    guard rows.count == rowCount else {
      throw EngineError(
        .invalidArgument,
        "row_of_slot has \(rows.count) slots for \(rowCount) rows; expected a permutation of the "
          + "rows")
    }
  }
}
