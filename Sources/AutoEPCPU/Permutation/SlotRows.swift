import AutoEPCore
import AutoEPSystem

/// The row of each slot, read from the caller's memory. An index that is out of range counts as -1, no row.
struct SlotRows {
  let numTokens: Int
  let topK: Int
  private let rows: Elements<Int32>
  private let rowCount: Int

  /// Reads `[T, K]` i32.
  init(_ tensor: TensorView, rowCount: Int) {
    numTokens = tensor.shape[0]
    topK = tensor.shape[1]
    rows = Elements(tensor)
    self.rowCount = rowCount
  }

  /// T·K, the number of slots.
  var slotCount: Int { rows.count }

  /// The row of a slot; nil for a slot without one.
  subscript(slot: Int) -> Int? {
    let row = Int(rows[slot])
    return row >= 0 && row < rowCount ? row : nil
  }

  /// Throws for the first slot whose row is neither -1 nor in range or, with `areDistinct`, is also the row of an
  /// earlier slot.
  func check(areDistinct: Bool) throws(EngineError) {
    var isTaken = [Bool](repeating: false, count: areDistinct ? rowCount : 0)
    for slot in 0..<rows.count where rows[slot] != -1 {
      guard let row = self[slot] else {
        throw EngineError(
          .invalidArgument,
          "row_of_slot holds \(rows[slot]) at slot \(slot); expected -1 or 0 to \(rowCount - 1)")
      }
      guard areDistinct else { continue }
      guard !isTaken[row] else {
        throw EngineError(
          .invalidArgument,
          "row_of_slot holds \(row) again at slot \(slot); expected each row at most once")
      }
      isTaken[row] = true
    }
  }
}

/// Floats of any type as the backend computes with them, one per slot or row.
struct WideValues<R: Real> {
  /// The elements of the tensor itself, if its dtype is that of `R`.
  private let own: Elements<R>
  /// Converted copies, if its dtype is another one.
  private let converted: [R]

  init(_ tensor: TensorView) {
    let isOwn = tensor.dtype == R.dataType
    own = isOwn ? Elements(tensor) : unsafe Elements(base: nil, count: 0)
    converted = isOwn ? [] : tensor.reals(R.self)
  }

  subscript(index: Int) -> R { converted.isEmpty ? own[index] : converted[index] }
}
