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
            rows.view, weights: weights.view, layout: layout, bias: bias?.view,
            rowsPerGroup: counts(size.rowsPerGroup), into: out.view)
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
          gradOut: gradOut.view, rows: rows.view, layout: layout,
          rowsPerGroup: counts(size.rowsPerGroup), into: gradWeights.view)
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
        gradOut.view, rowsPerGroup: counts(size.rowsPerGroup), into: sums.view)
      let values = gradOut.values
      var reference = [Double](repeating: 0, count: sums.view.elementCount)
      for (row, group) in size.groupOfRow.enumerated() {
        for output in 0..<size.outSize {
          reference[group * size.outSize + output] += values[row * size.outSize + output]
        }
      }
      expectClose(sums, reference)
    }
  }

  @Test(arguments: [[3, 2], [-1, 6, 0], [1 << 62, 1 << 62, 7], [5, 0, 1], [4, 0, 0]])
  func countsThatDoNotFitAreRefused(rowsPerGroup: [Int]) {
    let groups = Tensor(integers: rowsPerGroup, [rowsPerGroup.count], .i64).view
    let (rows, out) = (Tensor([5, 2], .f32), Tensor([5, 4], .f32))
    let weights = Tensor([3, 4, 2], .f32)
    #expect(throws: EngineError.self) {
      try testBackend().groupedGEMM(
        rows.view, weights: weights.view, layout: .outIn, bias: nil, rowsPerGroup: groups,
        into: out.view)
    }
    #expect(throws: EngineError.self) {
      try testBackend().groupedGEMMWeightGradient(
        gradOut: out.view, rows: rows.view, layout: .outIn, rowsPerGroup: groups,
        into: weights.view)
    }
    #expect(throws: EngineError.self) {
      try testBackend().groupedRowSum(
        out.view, rowsPerGroup: groups, into: Tensor([3, 4], .f32).view)
    }
  }

  /// Of either type that counts may have.
  private func counts(_ rowsPerGroup: [Int]) -> TensorView {
    Tensor(
      integers: rowsPerGroup, [rowsPerGroup.count], rowsPerGroup.count % 2 == 0 ? .i32 : .i64
    ).view
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
