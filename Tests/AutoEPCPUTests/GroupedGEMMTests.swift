import AutoEPCore
import AutoEPSystem
import Testing

@testable import AutoEPCPU

@Suite struct GroupedGEMMTests {
  private let types: [DataType] = [.f64, .f32, .bf16]
  private let layouts: [WeightLayout] = [.outIn, .inOut]

  @Test(arguments: testKernels, GEMMCase.all)
  func multipliesEachGroup(kernels: KernelSet, size: GEMMCase) throws {
    let backend = testBackend(kernels: kernels)
    for dtype in types {
      for layout in layouts {
        var random = Random(61)
        let rows = random.tensor([size.numRows, size.inSize], dtype)
        let weights = random.tensor(size.weightShape(layout), dtype)
        let bias = random.tensor([size.rowsPerGroup.count, size.outSize], dtype)
        for bias in [nil, bias] {
          let out = Tensor([size.numRows, size.outSize], dtype)
          try backend.groupedGEMM(
            ExpertRows(rows.view), weights: weights.view, layout: layout, bias: bias?.view,
            groups: counts(size.rowsPerGroup), into: ExpertRows(out.view))
          expectClose(out, product(size, rows.values, weights.values, layout, bias?.values))
        }
      }
    }
  }

  @Test(arguments: testKernels, GEMMCase.all)
  func weightGradientIsTheOuterProduct(kernels: KernelSet, size: GEMMCase) throws {
    let backend = testBackend(kernels: kernels)
    for dtype in types {
      for layout in layouts {
        var random = Random(62)
        let gradOut = random.tensor([size.numRows, size.outSize], dtype)
        let rows = random.tensor([size.numRows, size.inSize], dtype)
        let gradWeights = Tensor(size.weightShape(layout), dtype)
        try backend.groupedGEMMWeightGradient(
          gradOut: ExpertRows(gradOut.view), rows: ExpertRows(rows.view), layout: layout,
          groups: counts(size.rowsPerGroup), into: gradWeights.view, accumulate: false)
        expectClose(gradWeights, outerProduct(size, gradOut.values, rows.values, layout))
      }
    }
  }

  @Test(arguments: GEMMCase.all)
  func rowSumIsEachGroups(size: GEMMCase) throws {
    for dtype in types {
      var random = Random(63)
      let gradOut = random.tensor([size.numRows, size.outSize], dtype)
      let sums = Tensor([size.rowsPerGroup.count, size.outSize], dtype)
      try testBackend().groupedRowSum(
        ExpertRows(gradOut.view), weights: nil, groups: counts(size.rowsPerGroup), into: sums.view,
        accumulate: false)
      expectClose(sums, rowSums(size, gradOut.values, nil))
    }
  }

  @Test(arguments: GEMMCase.all)
  func rowSumWeighsItsRows(size: GEMMCase) throws {
    for dtype in types {
      for kind in PlacedRows.Kind.allCases {
        var random = Random(64)
        let rows = PlacedRows(kind, size.numRows, width: size.outSize, dtype, &random)
        let weights = PlacedRows(kind, size.numRows, width: 1, dtype.sumType, &random)
        for (target, accumulate) in targets(of: dtype) {
          let start = random.values(size.rowsPerGroup.count * size.outSize)
          let shape = [size.rowsPerGroup.count, size.outSize]
          let sums = accumulate ? Tensor(start, shape, target) : Tensor(shape, target)
          let before = sums.values
          try testBackend().groupedRowSum(
            rows.rows, weights: weights.rows, groups: RowGroups(offsetsOf: size.rowsPerGroup),
            into: sums.view, accumulate: accumulate)
          let reference = rowSums(size, rows.copies.values, weights.copies.values)
          expectClose(sums, accumulate ? zip(before, reference).map(+) : reference)
        }
      }
    }
  }

  @Test(arguments: testKernels, GEMMCase.all)
  func weightGradientsOfOtherTypesAndSums(kernels: KernelSet, size: GEMMCase) throws {
    let backend = testBackend(kernels: kernels)
    for dtype in types {
      for layout in layouts {
        var random = Random(65)
        let gradOut = random.tensor([size.numRows, size.outSize], dtype)
        let rows = random.tensor([size.numRows, size.inSize], dtype)
        let reference = outerProduct(size, gradOut.values, rows.values, layout)
        for (target, accumulate) in targets(of: dtype) {
          let shape = size.weightShape(layout)
          let start = random.values(shape.reduce(1, *))
          let gradWeights = accumulate ? Tensor(start, shape, target) : Tensor(shape, target)
          let before = gradWeights.values
          try backend.groupedGEMMWeightGradient(
            gradOut: ExpertRows(gradOut.view), rows: ExpertRows(rows.view), layout: layout,
            groups: RowGroups(offsetsOf: size.rowsPerGroup), into: gradWeights.view,
            accumulate: accumulate)
          expectClose(gradWeights, accumulate ? zip(before, reference).map(+) : reference)
        }
      }
    }
  }

  @Test(arguments: testKernels, PlacedRows.Kind.allCases)
  func productsOfPlacedRowsAreThoseOfCopies(kernels: KernelSet, kind: PlacedRows.Kind) throws {
    let backend = testBackend(kernels: kernels)
    for size in smallSizes {
      for dtype in types {
        for layout in layouts {
          var random = Random(66)
          let groups = counts(size.rowsPerGroup)
          let rows = PlacedRows(kind, size.numRows, width: size.inSize, dtype, &random)
          let weights = random.tensor(size.weightShape(layout), dtype)
          let bias = random.tensor([size.rowsPerGroup.count, size.outSize], dtype)
          let expected = Tensor([size.numRows, size.outSize], dtype)
          try backend.groupedGEMM(
            ExpertRows(rows.copies.view), weights: weights.view, layout: layout, bias: bias.view,
            groups: groups, into: ExpertRows(expected.view))
          for target in [PlacedRows.Kind.inOrder, .indexed] {
            let out = PlacedRows.output(target, size.numRows, width: size.outSize, dtype, &random)
            // Offsets allow spare rows at the end; rows of tokens have spare capacity.
            try backend.groupedGEMM(
              rows.rows, weights: weights.view, layout: layout, bias: bias.view,
              groups: RowGroups(offsetsOf: size.rowsPerGroup), into: out.rows)
            #expect(out.bytesInOrder == expected.bytes, "\(size.testDescription), \(dtype)")
            #expect(out.leftTheRestAlone)
          }
        }
      }
    }
  }

  @Test(arguments: testKernels, PlacedRows.Kind.allCases)
  func gradientsOfPlacedRowsAreThoseOfCopies(kernels: KernelSet, kind: PlacedRows.Kind) throws {
    let backend = testBackend(kernels: kernels)
    for size in smallSizes {
      for dtype in types {
        for layout in layouts {
          var random = Random(67)
          let rows = PlacedRows(kind, size.numRows, width: size.inSize, dtype, &random)
          let gradOut = PlacedRows(kind, size.numRows, width: size.outSize, dtype, &random)
          let (expected, gradWeights) = (
            Tensor(size.weightShape(layout), dtype), Tensor(size.weightShape(layout), dtype)
          )
          try backend.groupedGEMMWeightGradient(
            gradOut: ExpertRows(gradOut.copies.view), rows: ExpertRows(rows.copies.view),
            layout: layout, groups: counts(size.rowsPerGroup), into: expected.view,
            accumulate: false)
          try backend.groupedGEMMWeightGradient(
            gradOut: gradOut.rows, rows: rows.rows, layout: layout,
            groups: RowGroups(offsetsOf: size.rowsPerGroup), into: gradWeights.view,
            accumulate: false)
          #expect(gradWeights.bytes == expected.bytes, "\(size.testDescription), \(dtype)")
        }
      }
    }
  }

  @Test(arguments: [DataType.f64, .f32, .bf16])
  func rowsBehindTheOffsetsAreNeitherReadNorWritten(dtype: DataType) throws {
    var random = Random(68)
    let (width, outSize, counts, capacity) = (17, 35, [3, 0, 8], 15)
    let inUse = counts.reduce(0, +)
    let rest = [Double](repeating: .nan, count: (capacity - inUse) * width)
    let rows = Tensor(random.values(inUse * width) + rest, [capacity, width], dtype)
    let weights = random.tensor([3, outSize, width], dtype)
    let (groups, out) = (RowGroups(offsetsOf: counts), Tensor([capacity, outSize], dtype))
    try testBackend().groupedGEMM(
      ExpertRows(rows.view), weights: weights.view, layout: .outIn, bias: nil, groups: groups,
      into: ExpertRows(out.view))
    #expect(out.values.prefix(inUse * outSize).allSatisfy { $0.isFinite })
    #expect(out.values.dropFirst(inUse * outSize).allSatisfy { $0.isNaN })
    let gradient = Tensor([3, outSize, width], dtype)
    try testBackend().groupedGEMMWeightGradient(
      gradOut: ExpertRows(out.view), rows: ExpertRows(rows.view), layout: .outIn, groups: groups,
      into: gradient.view, accumulate: false)
    #expect(gradient.values.allSatisfy { $0.isFinite })
    let sums = Tensor([3, outSize], dtype)
    try testBackend().groupedRowSum(
      ExpertRows(out.view), weights: nil, groups: groups, into: sums.view, accumulate: false)
    #expect(sums.values.allSatisfy { $0.isFinite })
  }

  /// Small sizes only: the large ones exercise tiles, which do not depend on the placement of rows.
  private var smallSizes: [GEMMCase] {
    GEMMCase.all.filter { $0.numRows * $0.outSize < 10_000 }
  }

  /// The dtypes that a gradient may have besides the rows' own, and whether it is accumulated into.
  private func targets(of dtype: DataType) -> [(DataType, accumulate: Bool)] {
    [(dtype, false), (dtype.sumType, false), (dtype.sumType, true)]
  }

  @Test(arguments: [[3, 2], [-1, 6, 0], [1 << 62, 1 << 62, 7], [5, 0, 1], [4, 0, 0]])
  func countsThatDoNotFitAreRefused(rowsPerGroup: [Int]) {
    let groups = RowGroups(counts: rowsPerGroup, .i64)
    expectRefusal(groups)
  }

  @Test(arguments: [[0, 2, 5], [0, 3, 2, 5], [0, 2, 4, 6], [0, -1, 4, 5], [0, 2, 4, -1]])
  func offsetsThatDoNotFitAreRefused(offsets: [Int]) {
    expectRefusal(RowGroups(.offsets(Tensor(integers: offsets, [offsets.count]).view)))
  }

  private func expectRefusal(_ groups: RowGroups) {
    let (rows, out) = (Tensor([5, 2], .f32), Tensor([5, 4], .f32))
    let weights = Tensor([3, 4, 2], .f32)
    #expect(throws: EngineError.self) {
      try testBackend().groupedGEMM(
        ExpertRows(rows.view), weights: weights.view, layout: .outIn, bias: nil, groups: groups,
        into: ExpertRows(out.view))
    }
    #expect(throws: EngineError.self) {
      try testBackend().groupedGEMMWeightGradient(
        gradOut: ExpertRows(out.view), rows: ExpertRows(rows.view), layout: .outIn, groups: groups,
        into: weights.view, accumulate: false)
    }
    #expect(throws: EngineError.self) {
      try testBackend().groupedRowSum(
        ExpertRows(out.view), weights: nil, groups: groups, into: Tensor([3, 4], .f32).view,
        accumulate: false)
    }
  }

  /// Counts in both of their dtypes.
  private func counts(_ rowsPerGroup: [Int]) -> RowGroups {
    RowGroups(counts: rowsPerGroup, rowsPerGroup.count % 2 == 0 ? .i32 : .i64)
  }

  private func rowSums(_ size: GEMMCase, _ rows: [Double], _ weights: [Double]?) -> [Double] {
    var result = [Double](repeating: 0, count: size.rowsPerGroup.count * size.outSize)
    for (row, group) in size.groupOfRow.enumerated() {
      for output in 0..<size.outSize {
        result[group * size.outSize + output] +=
          (weights?[row] ?? 1) * rows[row * size.outSize + output]
      }
    }
    return result
  }

  private func product(
    _ size: GEMMCase, _ rows: [Double], _ weights: [Double], _ layout: WeightLayout,
    _ bias: [Double]?
  ) -> [Double] {
    size.groupOfRow.enumerated().flatMap { row, group in
      (0..<size.outSize).map { output in
        (0..<size.inSize).reduce(bias?[group * size.outSize + output] ?? 0) { sum, input in
          sum + rows[row * size.inSize + input] * weights[size.place(group, output, input, layout)]
        }
      }
    }
  }

  private func outerProduct(
    _ size: GEMMCase, _ gradOut: [Double], _ rows: [Double], _ layout: WeightLayout
  ) -> [Double] {
    var result = [Double](repeating: 0, count: size.weightShape(layout).reduce(1, *))
    for (row, group) in size.groupOfRow.enumerated() {
      for output in 0..<size.outSize {
        for input in 0..<size.inSize {
          result[size.place(group, output, input, layout)] +=
            gradOut[row * size.outSize + output] * rows[row * size.inSize + input]
        }
      }
    }
    return result
  }
}
