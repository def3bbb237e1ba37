import AutoEPCPU
import AutoEPCore
import AutoEPSystem
import Testing

/// Compares the steps for numbers that accompany rows with plain loops.
@Suite struct RowValuesTests {
  @Test(arguments: PermutationCase.all, [DataType.f64, .f32])
  func scattersToRows(_ size: PermutationCase, dtype: DataType) throws {
    var random = Random(91)
    let data = PermutationData(size, dtype, hasAbsentSlots: true, &random)
    for valueType in [dtype, .bf16] {
      let values = data.weights(valueType, &random)
      let untouched = 7.0
      let rows = Tensor(
        Array(repeating: untouched, count: data.numRows), [data.numRows, 1], dtype)
      try data.backend.scatterToRows(
        values.view, rowOfSlot: data.rowOfSlot.view, into: rows.view)
      var expected = [Double](repeating: untouched, count: data.numRows)
      for (slot, row) in data.map.enumerated() where row >= 0 {
        expected[row] = values.values[slot]
      }
      #expect(rows.values == expected)
    }
  }

  @Test(arguments: PermutationCase.all, [1, 2, 9])
  func gathersSumsOfParts(_ size: PermutationCase, parts: Int) throws {
    for dtype in [DataType.f64, .f32] {
      var random = Random(92)
      let data = PermutationData(size, dtype, hasAbsentSlots: true, &random)
      let partials = random.tensor([data.numRows, parts], dtype)
      let sums = Tensor([data.numRows, 1], dtype)
      try data.backend.sumPartials(partials.view, into: sums.view)
      let reference = sumsOfRows(partials)
      expectClose(sums, reference)
      for valueType in [dtype, .bf16] {
        let values = Tensor([size.numTokens, size.topK], valueType)
        try data.backend.gatherFromRows(
          partials.view, rowOfSlot: data.rowOfSlot.view, into: values.view)
        expectClose(values, data.map.map { $0 < 0 ? 0 : reference[$0] })
        #expect(zip(values.values, data.map).allSatisfy { $1 >= 0 || $0 == 0 })
        // Both add the same numbers in the same order.
        guard valueType == dtype else { continue }
        let rowSums = sums.values
        #expect(values.values == data.map.map { $0 < 0 ? 0 : rowSums[$0] })
      }
    }
  }

  @Test func sumsMayTakeThePlaceOfSingleParts() throws {
    let partials = Tensor([1, -2, 3], [3, 1], .f32)
    try testBackend().sumPartials(partials.view, into: partials.view)
    #expect(partials.values == [1, -2, 3])
  }

  @Test(arguments: [-1, -2, 3, Int(Int32.max)])
  func rowsOutsideAreNone(row: Int) throws {
    let map = Tensor(integers: [row, 1], [1, 2])
    let rows = Tensor([5, 5, 5], [3, 1], .f32)
    try testBackend().scatterToRows(
      Tensor([.nan, 2], [1, 2], .f32).view, rowOfSlot: map.view, into: rows.view)
    #expect(rows.values == [5, 2, 5])
    let values = Tensor([1, 2], .f32)
    try testBackend().gatherFromRows(rows.view, rowOfSlot: map.view, into: values.view)
    #expect(values.values == [0, 2])
  }

  @Test(arguments: PlacedRows.Kind.allCases, PlacedRows.Kind.allCases)
  func rowDotIsTheInnerProduct(left: PlacedRows.Kind, right: PlacedRows.Kind) throws {
    for dtype in [DataType.f64, .f32, .bf16] {
      for (count, width) in [(0, 3), (1, 1), (7, 17), (200, 130)] {
        for kind in [PlacedRows.Kind.inOrder, .indexed] {
          var random = Random(93)
          let left = PlacedRows(left, count, width: width, dtype, &random)
          let right = PlacedRows(right, count, width: width, dtype, &random)
          let products = PlacedRows.output(kind, count, width: 1, dtype.sumType, &random)
          // Rows after the last group are not in use.
          let inUse = count - count / 4
          try testBackend(threads: 3).rowDot(
            left.rows, right.rows, groups: RowGroups(offsetsOf: [inUse / 2, inUse - inUse / 2]),
            into: products.rows)
          let (a, b) = (left.copies.values, right.copies.values)
          let reference = (0..<inUse).map { row in
            (row * width..<(row + 1) * width).reduce(0) { $0 + a[$1] * b[$1] }
          }
          let values = products.valuesInOrder
          expectClose(
            Tensor(Array(values.prefix(inUse)), [inUse, 1], dtype.sumType), reference)
          #expect(values.dropFirst(inUse).allSatisfy { $0.isNaN })
          #expect(products.leftTheRestAlone)
        }
      }
    }
  }

  private func sumsOfRows(_ tensor: Tensor) -> [Double] {
    let (width, values) = (tensor.view.shape[1], tensor.values)
    return (0..<tensor.view.shape[0]).map { row in
      values[row * width..<(row + 1) * width].reduce(0, +)
    }
  }
}
