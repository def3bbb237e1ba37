import AutoEPCPU
import AutoEPCore
import AutoEPSystem
import Testing

/// The sizes of a permutation: tokens, K, width.
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
  func slotsWithoutARowAreSkipped(_ size: PermutationCase, dtype: DataType) throws {
    var random = Random(53)
    let data = PermutationData(size, dtype, hasAbsentSlots: true, &random)
    let untouched = 5.0
    for weights in [nil, data.weights(dtype.sumType, &random), data.weights(.bf16, &random)] {
      let rows = Tensor(
        Array(repeating: untouched, count: data.numRows * size.width), [data.numRows, size.width],
        dtype)
      try data.backend.permute(
        data.x.view, rowOfSlot: data.rowOfSlot.view, weights: weights?.view, into: rows.view)
      expectClose(rows, data.referenceRows(weights?.values, untouched: untouched))
      let y = Tensor([size.numTokens, size.width], dtype)
      try data.backend.unpermute(
        data.rows.view, rowOfSlot: data.rowOfSlot.view, weights: weights?.view, into: y.view)
      expectClose(y, data.referenceSums(weights?.values))
    }
    let products = Tensor([size.numTokens, size.topK], dtype.sumType)
    try data.backend.slotDot(
      data.x.view, data.rows.view, rowOfSlot: data.rowOfSlot.view, into: products.view)
    expectClose(products, data.referenceDots())
    #expect(zip(products.values, data.map).allSatisfy { $1 >= 0 || $0 == 0 })
  }

  @Test func tokensWithoutAnyRowSumToZero() throws {
    let rowOfSlot = Tensor(integers: [-1, -1, 1, -1], [2, 2])
    let rows = Tensor([.nan, .nan, 3, 4], [2, 2], .f32)
    let y = Tensor([2, 2], .f32)
    try testBackend().unpermute(
      rows.view, rowOfSlot: rowOfSlot.view,
      weights: Tensor([.nan, .nan, 2, .nan], [2, 2], .f32).view, into: y.view)
    #expect(y.values == [0, 0, 6, 8])
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

  /// Steps do not throw for rows out of range: they skip them, as on a device whose data the host cannot read.
  @Test(arguments: [-2, 6, Int(Int32.max), Int(Int32.min)])
  func rowsOutsideAreRefusedByTheCheckAndSkippedBySteps(row: Int) throws {
    let backend = try CPUBackend(numThreads: 2)
    let rowOfSlot = Tensor(integers: [0, 5, row, -1, 2, row], [3, 2])
    for areDistinct in [false, true] {
      let error = try #require(throws: EngineError.self) {
        try backend.check(rowOfSlot: rowOfSlot.view, rowCount: 6, areDistinct: areDistinct)
      }
      #expect(error.kind == .invalidArgument)
      #expect(error.message.contains("\(row) at slot 2"), "\(error)")
    }
    let absent = Tensor(integers: [0, 5, -1, -1, 2, -1], [3, 2])
    var random = Random(54)
    let (x, rows) = (random.tensor([3, 4], .f32), random.tensor([6, 4], .f32))
    let results = try [rowOfSlot, absent].map { map in
      let moved = Tensor(rows.values, [6, 4], .f32)
      try backend.permute(x.view, rowOfSlot: map.view, weights: nil, into: moved.view)
      let (y, products) = (Tensor([3, 4], .f32), Tensor([3, 2], .f32))
      try backend.unpermute(rows.view, rowOfSlot: map.view, weights: nil, into: y.view)
      try backend.slotDot(x.view, rows.view, rowOfSlot: map.view, into: products.view)
      return [moved, y, products].map(\.bytes)
    }
    #expect(results[0] == results[1])
  }

  @Test func rowsTakenTwiceAreRefusedWhereTheyMustDiffer() throws {
    let backend = try CPUBackend(numThreads: 2)
    let rowOfSlot = Tensor(integers: [0, -1, 2, 1, -1, 2], [3, 2])
    let error = try #require(throws: EngineError.self) {
      try backend.check(rowOfSlot: rowOfSlot.view, rowCount: 4, areDistinct: true)
    }
    #expect(error.kind == .invalidArgument)
    #expect(error.message.contains("2 again at slot 5"), "\(error)")
    try backend.check(rowOfSlot: rowOfSlot.view, rowCount: 4, areDistinct: false)
    let distinct = Tensor(integers: [0, -1, 2, 1, -1, 3], [3, 2])
    try backend.check(rowOfSlot: distinct.view, rowCount: 4, areDistinct: true)
  }
}
