import AutoEPCore
import Testing

@testable import AutoEPCPU

/// Compares the fused experts with the composed steps, which other tests compare with plain loops.
@Suite struct ExpertsTests {
  typealias Gate = ExpertsConfiguration.Gate

  @Test(arguments: testKernels, [DataType.f64, .f32, .bf16])
  func fusedForwardsAreTheComposedOnes(kernels: KernelSet, dtype: DataType) throws {
    let backend = testBackend(kernels: kernels)
    for (experts, gate) in cases(dtype) {
      for kind in PlacedRows.Kind.allCases {
        var random = Random(95)
        let rows = PlacedRows(
          kind, experts.numRows, width: experts.configuration.hiddenSize, dtype, &random)
        let made = try [false, true].map { isComposed in
          var random = random
          let results = PlacedRows.output(
            kind == .inOrder ? .inOrder : .indexed, experts.numRows,
            width: experts.configuration.hiddenSize, dtype, &random)
          let hidden = try experts.forward(
            backend, rows.rows, into: results.rows, composed: isComposed)
          #expect(results.leftTheRestAlone)
          return (hidden, results)
        }
        let (fused, composed) = (made[0], made[1])
        let label = "\(gate) \(kind)"
        #expect(fused.0.bytes == composed.0.bytes, "\(label)")
        expectSimilar(inOrder(fused.1), inOrder(composed.1), label, dtype)
      }
    }
  }

  @Test(arguments: testKernels, [DataType.f64, .f32, .bf16])
  func fusedBackwardsAreTheComposedOnes(kernels: KernelSet, dtype: DataType) throws {
    let backend = testBackend(kernels: kernels)
    for (experts, gate) in cases(dtype) {
      for kind in [PlacedRows.Kind.inOrder, .indexed] {
        for hasWeights in [false, true] {
          for accumulates in [false, true] {
            var random = Random(96)
            let width = experts.configuration.hiddenSize
            let hidden = random.tensor([experts.numRows, experts.configuration.gateUpSize], dtype)
            let gradRows = PlacedRows(
              kind == .inOrder ? .tokens : kind, experts.numRows, width: width, dtype, &random)
            let weights = PlacedRows(kind, experts.numRows, width: 1, dtype.sumType, &random)
            var wishes = ExpertsData.Wishes()
            wishes.gradients = accumulates ? dtype.sumType : nil
            wishes.accumulates = accumulates
            let made = try [false, true].map { isComposed in
              var random = random
              return try experts.backward(
                backend, hidden: hidden, gradRows: gradRows.rows,
                rowWeights: hasWeights ? weights.rows : nil, placed: kind, wishes,
                composed: isComposed, &random)
            }
            let (fused, composed) = (made[0], made[1])
            let label = "\(gate) \(kind) \(hasWeights) \(accumulates)"
            #expect(fused.dots != nil && composed.dots != nil)
            #expect(fused.gradInputs.leftTheRestAlone)
            expectSimilar(inOrder(fused.gradInputs), inOrder(composed.gradInputs), label, dtype)
            for (tensor, expected) in zip(fused.tensors, composed.tensors) {
              expectSimilar(tensor, expected, label, dtype)
            }
          }
        }
      }
    }
  }

  @Test(arguments: [DataType.f64, .f32, .bf16])
  func whatIsNotAskedForChangesNothingElse(dtype: DataType) throws {
    let backend = testBackend()
    for (experts, _) in cases(dtype) {
      var random = Random(97)
      let hidden = random.tensor([experts.numRows, experts.configuration.gateUpSize], dtype)
      let gradRows = PlacedRows(
        .inOrder, experts.numRows, width: experts.configuration.hiddenSize, dtype, &random)
      let weights = PlacedRows(.inOrder, experts.numRows, width: 1, dtype.sumType, &random)
      let made = try [true, false].map { wantsAll in
        var random = random
        var wishes = ExpertsData.Wishes()
        wishes.hasDots = wantsAll
        wishes.wantsGradInputs = wantsAll
        return try experts.backward(
          backend, hidden: hidden, gradRows: gradRows.rows, rowWeights: weights.rows,
          placed: .inOrder, wishes, &random)
      }
      let (all, few) = (made[0], made[1])
      #expect(few.dots == nil)
      #expect(few.gradInputs.memory.values.allSatisfy { $0.isNaN })
      #expect(few.gradHidden.bytes == all.gradHidden.bytes)
      #expect(few.down.bytes == all.down.bytes)
      #expect(few.downBias?.bytes == all.downBias?.bytes)
      #expect(few.gateUpBias?.bytes == all.gateUpBias?.bytes)
    }
  }

  @Test(arguments: testKernels, [DataType.f64, .f32, .bf16])
  func memoryMayBeWorkedIn(kernels: KernelSet, dtype: DataType) throws {
    let backend = testBackend(threads: 3, kernels: kernels)
    for (experts, gate) in cases(dtype) {
      var random = Random(99)
      let shape = [experts.numRows, experts.configuration.hiddenSize]
      let (rows, results) = (random.tensor(shape, dtype), Tensor(shape, dtype))
      let hidden = try experts.forward(
        backend, ExpertRows(rows.view), into: ExpertRows(results.view))
      let inPlace = Tensor(rows.values, shape, dtype)
      let again = try experts.forward(
        backend, ExpertRows(inPlace.view), into: ExpertRows(inPlace.view))
      #expect(again.bytes == hidden.bytes && inPlace.bytes == results.bytes, "\(gate)")

      let weights = PlacedRows(.inOrder, experts.numRows, width: 1, dtype.sumType, &random)
      let made = try [false, true].map { (overwritesHidden: Bool) -> [[UInt8]] in
        var random = random
        var wishes = ExpertsData.Wishes()
        wishes.overwritesHidden = overwritesHidden
        let made = try experts.backward(
          backend, hidden: Tensor(hidden.values, hidden.view.shape, dtype),
          gradRows: ExpertRows(results.view), rowWeights: weights.rows, placed: .inOrder, wishes,
          &random)
        return (made.tensors + [made.gradInputs.memory]).map(\.bytes)
      }
      #expect(made[0] == made[1], "\(gate)")
    }
  }

  @Test(arguments: PlacedRows.Kind.allCases, [DataType.f64, .f32, .bf16])
  func gateUpGradientsAreWeightGradients(kind: PlacedRows.Kind, dtype: DataType) throws {
    let backend = testBackend()
    for (experts, _) in cases(dtype) {
      var random = Random(98)
      let configuration = experts.configuration
      let rows = PlacedRows(kind, experts.numRows, width: configuration.hiddenSize, dtype, &random)
      let gradHidden = random.tensor([experts.numRows, configuration.gateUpSize], dtype)
      let shape = experts.call.weights.gateUp.shape
      let (expected, gradient) = (Tensor(shape, dtype.sumType), Tensor(shape, dtype.sumType))
      var arena = Arena.none
      for accumulates in [false, true] {
        try backend.groupedGEMMWeightGradient(
          gradOut: ExpertRows(gradHidden.view), rows: ExpertRows(rows.copies.view),
          layout: configuration.weightLayout, groups: experts.call.groups, into: expected.view,
          accumulate: accumulates)
        try backend.gateUpGradient(
          experts.call, rows: rows.rows, room: nil, gradHidden: gradHidden.view,
          into: gradient.view, accumulate: accumulates, &arena)
        #expect(gradient.bytes == expected.bytes)
      }
    }
  }

  /// Experts with and without rows and biases, for each gate and layout.
  private func cases(_ dtype: DataType) -> [(ExpertsData, Gate)] {
    var random = Random(94)
    return [
      (Gate.none, false), (.concatenated, true), (.interleaved, true), (.concatenated, false),
    ]
    .flatMap { gate, hasBiases in
      [WeightLayout.outIn, .inOut].map { layout in
        let experts = ExpertsData(
          [5, 0, 19, 1], hiddenSize: 17, ffnSize: 34, dtype, hasBiases: hasBiases, &random
        ) {
          $0.gate = gate
          $0.weightLayout = layout
        }
        return (experts, gate)
      }
    }
  }

  private func inOrder(_ rows: PlacedRows) -> Tensor {
    let width = rows.memory.view.rowElementCount
    return Tensor(rows.valuesInOrder, [rows.places.count, width], rows.memory.view.dtype)
  }

  /// Single steps round each intermediate tensor to 16 bits; the fused steps keep some in f32. Both results, and the
  /// values that they sum, may differ from the exact ones by a rounding.
  private func expectSimilar(
    _ tensor: Tensor, _ expected: Tensor, _ label: String, _ dtype: DataType,
    sourceLocation: SourceLocation = #_sourceLocation
  ) {
    expectClose(
      tensor, expected.values, label, allowing: dtype == .bf16 ? 0x1p-6 : nil,
      sourceLocation: sourceLocation)
  }
}
