import AutoEPCPU
import AutoEPCore
import AutoEPSystem
import Testing

/// Sizes of a permutation: tokens, K, width.
struct PermutationCase: Sendable, CustomTestStringConvertible {
  let numTokens: Int
  let topK: Int
  let width: Int
  var testDescription: String { "T \(numTokens), K \(topK), H \(width)" }

  static let all = [(0, 2, 4), (1, 1, 1), (3, 2, 17), (65, 3, 65), (50, 8, 130), (2, 1, 0)]
    .map { PermutationCase(numTokens: $0, topK: $1, width: $2) }
}

@Suite struct PermutationTests {
  @Test(arguments: PermutationCase.all, [DataType.f64, .f32, .bf16])
  func permutesAndUnpermutes(_ size: PermutationCase, dtype: DataType) throws {
    var random = Random(51)
    let data = PermutationData(size, dtype, &random)
    for weights in [nil, data.weights(.f32, &random), data.weights(.bf16, &random)] {
      let rows = Tensor([data.numRows, size.width], dtype)
      try data.backend.permute(
        data.x.view, rowOfSlot: data.rowOfSlot.view, weights: weights?.view, into: rows.view)
      expectClose(rows, data.referenceRows(weights?.values))
      let y = Tensor([size.numTokens, size.width], dtype)
      try data.backend.unpermute(
        data.rows.view, rowOfSlot: data.rowOfSlot.view, weights: weights?.view, into: y.view)
      expectClose(y, data.referenceSums(weights?.values))
    }
  }

  @Test(arguments: PermutationCase.all, [DataType.f64, .f32, .bf16])
  func slotDotIsTheInnerProduct(_ size: PermutationCase, dtype: DataType) throws {
    var random = Random(52)
    let data = PermutationData(size, dtype, &random)
    for weightType in [DataType.f64, .f32, .bf16] where weightType != .f64 || dtype == .f64 {
      let gradWeights = Tensor([size.numTokens, size.topK], weightType)
      try data.backend.slotDot(
        data.x.view, data.rows.view, rowOfSlot: data.rowOfSlot.view, into: gradWeights.view)
      expectClose(gradWeights, data.referenceDots())
    }
  }

  @Test(arguments: [-1, 6, Int(Int32.max)])
  func rowsOutsideAreRefused(row: Int) throws {
    let rowOfSlot = Tensor(integers: [0, 5, row, 1, 2, row], [3, 2])
    let (x, rows) = (Tensor([3, 4], .f32), Tensor([6, 4], .f32))
    let backend = try CPUBackend(numThreads: 2)
    let attempts: [() throws -> Void] = [
      { try backend.permute(x.view, rowOfSlot: rowOfSlot.view, weights: nil, into: rows.view) },
      { try backend.unpermute(rows.view, rowOfSlot: rowOfSlot.view, weights: nil, into: x.view) },
      {
        try backend.slotDot(
          x.view, rows.view, rowOfSlot: rowOfSlot.view, into: Tensor([3, 2], .f32).view)
      },
    ]
    for attempt in attempts {
      let error = try #require(throws: EngineError.self, performing: attempt)
      #expect(error.kind == .invalidArgument)
      #expect(error.message.contains("\(row) at slot 2"), "\(error)")
    }
  }

  @Test func permuteRefusesARowTwice() throws {
    let rowOfSlot = Tensor(integers: [0, 1, 2, 1], [2, 2])
    let error = try #require(throws: EngineError.self) {
      try CPUBackend(numThreads: 2).permute(
        Tensor([2, 4], .f32).view, rowOfSlot: rowOfSlot.view, weights: nil,
        into: Tensor([4, 4], .f32).view)
    }
    #expect(error.message.contains("1 again at slot 3"), "\(error)")
  }
}
