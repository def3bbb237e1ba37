/// The slots sorted by expert, and their rows.
struct PlainSort {
  /// The row of each slot; -1 for a slot without one.
  let rowOfSlot: [Int]
  /// The slot of each row.
  let slotOfRow: [Int]
  /// Slots of each expert.
  let counts: [Int]

  /// Sorts topk_idx stably; -1 is no expert.
  init(_ choice: [Int], numExperts: Int) {
    slotOfRow = choice.indices.filter { choice[$0] >= 0 }
      .sorted { (choice[$0], $0) < (choice[$1], $1) }
    var rowOfSlot = [Int](repeating: -1, count: choice.count)
    for (row, slot) in slotOfRow.enumerated() { rowOfSlot[slot] = row }
    self.rowOfSlot = rowOfSlot
    counts = (0..<numExperts).map { expert in choice.count { $0 == expert } }
  }

  /// The first row of each expert, then the number of rows.
  var offsets: [Int] { counts.reduce(into: [0]) { $0.append(($0.last ?? 0) + $1) } }

  /// The copies of tokens `[T,width]` in row order, multiplied by the slots' weights if given.
  func rows(_ tokens: [Double], topK: Int, width: Int, weights: [Double]? = nil) -> [Double] {
    slotOfRow.flatMap { slot in
      (0..<width).map { (weights?[slot] ?? 1) * tokens[slot / topK * width + $0] }
    }
  }

  /// y[t] = Σ_k weights[t,k] · the row of the slot.
  func sums(
    _ rows: [Double], topK: Int, width: Int, weights: [Double]? = nil
  ) -> [Double] {
    var sums = [Double](repeating: 0, count: rowOfSlot.count / topK * width)
    for (slot, row) in rowOfSlot.enumerated() where row >= 0 {
      for column in 0..<width {
        sums[slot / topK * width + column] +=
          (weights?[slot] ?? 1) * rows[row * width + column]
      }
    }
    return sums
  }

  /// The number of each slot's row; 0 for a slot without one.
  func toSlots(_ values: [Double]) -> [Double] { rowOfSlot.map { $0 < 0 ? 0 : values[$0] } }
}
