import AutoEPCPU
import AutoEPCore

/// Random tensors of one permutation, and references for its operations. Some slots may have no row; then as many
/// rows have no slot.
struct PermutationData {
  let backend: CPUBackend
  let x: Tensor
  let rows: Tensor
  let rowOfSlot: Tensor
  private let size: PermutationCase
  /// The row of each slot; -1 for a slot without one.
  let map: [Int]

  init(
    _ size: PermutationCase, _ dtype: DataType, hasAbsentSlots: Bool = false,
    _ random: inout Random
  ) {
    self.size = size
    backend = testBackend(threads: 3)
    let rows = Array(0..<size.numTokens * size.topK).shuffled(using: &random)
    map = rows.enumerated().map { hasAbsentSlots && $0 % 3 == 0 ? -1 : $1 }
    x = random.tensor([size.numTokens, size.width], dtype)
    self.rows = random.tensor([map.count, size.width], dtype)
    rowOfSlot = Tensor(integers: map, [size.numTokens, size.topK])
  }

  var numRows: Int { map.count }

  /// Random weights; NaN for a slot without a row, whose weight must not be read.
  func weights(_ dtype: DataType, _ random: inout Random) -> Tensor {
    let weights = random.tensor([size.numTokens, size.topK], dtype)
    weights.values = zip(weights.values, map).map { $1 < 0 ? .nan : $0 }
    return weights
  }

  /// The expected rows; rows without a slot keep `untouched`.
  func referenceRows(_ weights: [Double]?, untouched: Double = .nan) -> [Double] {
    var result = [Double](repeating: untouched, count: numRows * size.width)
    let x = self.x.values
    for (slot, row) in map.enumerated() where row >= 0 {
      for h in 0..<size.width {
        result[row * size.width + h] =
          (weights?[slot] ?? 1) * x[slot / size.topK * size.width + h]
      }
    }
    return result
  }

  func referenceSums(_ weights: [Double]?) -> [Double] {
    var result = [Double](repeating: 0, count: size.numTokens * size.width)
    let rows = self.rows.values
    for (slot, row) in map.enumerated() where row >= 0 {
      for h in 0..<size.width {
        result[slot / size.topK * size.width + h] +=
          (weights?[slot] ?? 1) * rows[row * size.width + h]
      }
    }
    return result
  }

  func referenceDots() -> [Double] {
    let (x, rows) = (self.x.values, self.rows.values)
    return map.enumerated().map { slot, row in
      row < 0
        ? 0
        : (0..<size.width).reduce(0) {
          $0 + x[slot / size.topK * size.width + $1] * rows[row * size.width + $1]
        }
    }
  }
}
