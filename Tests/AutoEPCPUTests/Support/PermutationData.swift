import AutoEPCPU
import AutoEPCore

/// Random tensors of one permutation, and what its operations make of them.
struct PermutationData {
  let backend: CPUBackend
  let x: Tensor
  let rows: Tensor
  let rowOfSlot: Tensor
  private let size: PermutationCase
  private let map: [Int]

  init(_ size: PermutationCase, _ dtype: DataType, _ random: inout Random) {
    self.size = size
    backend = testBackend(threads: 3)
    map = Array(0..<size.numTokens * size.topK).shuffled(using: &random)
    x = random.tensor([size.numTokens, size.width], dtype)
    rows = random.tensor([map.count, size.width], dtype)
    rowOfSlot = Tensor(integers: map, [size.numTokens, size.topK])
  }

  var numRows: Int { map.count }

  func weights(_ dtype: DataType, _ random: inout Random) -> Tensor {
    random.tensor([size.numTokens, size.topK], dtype)
  }

  func referenceRows(_ weights: [Double]?) -> [Double] {
    var result = [Double](repeating: .nan, count: numRows * size.width)
    let x = self.x.values
    for (slot, row) in map.enumerated() {
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
    for (slot, row) in map.enumerated() {
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
      (0..<size.width).reduce(0) {
        $0 + x[slot / size.topK * size.width + $1] * rows[row * size.width + $1]
      }
    }
  }
}
