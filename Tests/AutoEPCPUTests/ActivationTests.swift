import AutoEPCPU
import AutoEPCore
import AutoEPReferences
import Testing

@Suite struct ActivationTests {
  typealias Activation = ExpertsConfiguration.Activation
  typealias Gate = ExpertsConfiguration.Gate

  @Test(arguments: [Activation.silu, .gelu, .geluTanh, .reluSquared, .clampedSwiGLU, .clampedSiLU])
  func forwardAndBackwardAreTheReferences(activation: Activation) throws {
    for gate in [Gate.none, .concatenated, .interleaved]
    where gate != .none || !activation.isClamped {
      for dtype in [DataType.f64, .f32, .bf16] {
        for (numRows, width) in [(0, 4), (1, 1), (3, 17), (20, 33)] {
          try check(configuration(activation, gate, width, dtype), numRows)
        }
      }
    }
  }

  @Test(arguments: [Activation.silu, .gelu, .geluTanh, .reluSquared, .clampedSwiGLU, .clampedSiLU])
  func backwardMayOverwriteItsInputs(activation: Activation) throws {
    for gate in [Gate.none, .concatenated, .interleaved]
    where gate != .none || !activation.isClamped {
      let experts = configuration(activation, gate, 20, .f32)
      var random = Random(82)
      let hiddenShape = [5, experts.gateUpSize]
      let hidden = random.tensor(hiddenShape, .f32)
      let gradOut = random.tensor([5, 20], .f32)
      let rowWeights = random.tensor([5, 1], .f32)
      let backend = try CPUBackend(numThreads: 2)
      func differentiate(_ hidden: Tensor, _ gradOut: Tensor, _ into: Tensor, _ activated: Tensor)
        throws -> [UInt8]
      {
        let dots = Tensor([5, 1], .f32)
        try backend.activateBackward(
          experts, groups: RowGroups(counts: [2, 3]),
          ActivationGradient(
            hidden: hidden.view, gradOut: gradOut.view, rowWeights: ExpertRows(rowWeights.view),
            gradHidden: into.view, activated: activated.view, dots: ExpertRows(dots.view)))
        return into.bytes + activated.bytes + dots.bytes
      }
      let expected = try differentiate(
        hidden, gradOut, Tensor(hiddenShape, .f32), Tensor([5, 20], .f32))
      let copies = (
        Tensor(hidden.values, hiddenShape, .f32), Tensor(gradOut.values, [5, 20], .f32)
      )
      let inPlace = try differentiate(copies.0, copies.1, copies.0, copies.1)
      #expect(inPlace == expected)
    }
  }

  @Test(arguments: [Activation.silu, .gelu, .geluTanh, .clampedSwiGLU, .clampedSiLU])
  func largeInputsDoNotOverflow(activation: Activation) throws {
    let experts = configuration(activation, .concatenated, 4, .f32)
    let hidden = Tensor([500, -500, 1e4, -1e4, 1, 1, 1, 1], [1, 8], .f32)
    let (out, gradHidden) = (Tensor([1, 4], .f32), Tensor([1, 8], .f32))
    let backend = try CPUBackend(numThreads: 1)
    let groups = RowGroups(counts: [1])
    try backend.activate(experts, hidden: hidden.view, groups: groups, into: out.view)
    let reference = PlainActivation(configuration: experts)
    expectClose(out, reference.row(hidden.values.map { Dual($0) }).map(\.value))
    try backend.activateBackward(
      experts, groups: groups,
      ActivationGradient(
        hidden: hidden.view, gradOut: Tensor([1, 1, 1, 1], [1, 4], .f32).view,
        gradHidden: gradHidden.view))
    #expect(gradHidden.values.allSatisfy { $0.isFinite })
  }

  @Test(arguments: [DataType.f64, .f32, .bf16])
  func rowsBehindTheOffsetsAreLeftAlone(dtype: DataType) throws {
    let experts = configuration(.silu, .concatenated, 9, dtype)
    var random = Random(83)
    let (hidden, gradOut) = (random.tensor([6, 18], dtype), random.tensor([6, 9], dtype))
    let (out, gradHidden) = (Tensor([6, 9], dtype), Tensor([6, 18], dtype))
    let (activated, dots) = (Tensor([6, 9], dtype), Tensor([6, 1], dtype.sumType))
    let groups = RowGroups(offsetsOf: [3, 0, 1])
    try testBackend().activate(experts, hidden: hidden.view, groups: groups, into: out.view)
    try testBackend().activateBackward(
      experts, groups: groups,
      ActivationGradient(
        hidden: hidden.view, gradOut: gradOut.view, gradHidden: gradHidden.view,
        activated: activated.view, dots: ExpertRows(dots.view)))
    for tensor in [out, gradHidden, activated, dots] {
      let inUse = 4 * tensor.view.rowElementCount
      #expect(tensor.values.prefix(inUse).allSatisfy { $0.isFinite })
      #expect(tensor.values.dropFirst(inUse).allSatisfy { $0.isNaN })
    }
  }

  private func configuration(
    _ activation: Activation, _ gate: Gate, _ width: Int, _ dtype: DataType
  ) -> ExpertsConfiguration {
    var experts = ExpertsConfiguration(
      numExperts: 1, topK: 1, hiddenSize: 5, ffnSize: width, dtype: dtype)
    experts.activation = activation
    experts.gate = gate
    experts.swigluAlpha = 1.702
    // Some random inputs, which are within ±1.74, exceed the limit.
    experts.swigluLimit = 1.25
    return experts
  }

  private func check(_ experts: ExpertsConfiguration, _ numRows: Int) throws {
    var random = Random(81)
    let data = ActivationData(experts, numRows, &random)
    let out = Tensor([numRows, experts.ffnSize], experts.dtype)
    try testBackend().activate(
      experts, hidden: data.hidden.view, groups: data.groups, into: out.view)
    expectClose(out, data.referenceActivation, "\(experts.activation) \(experts.gate)")
    for kind in [nil, PlacedRows.Kind.inOrder, .indexed] {
      for hasBias in [false, true] {
        try data.checkBackward(weights: kind, hasBias: hasBias, &random)
      }
    }
  }
}

/// The tensors of an activation's backward, and their reference.
private struct ActivationData {
  let experts: ExpertsConfiguration
  let numRows: Int
  let counts: [Int]
  let hidden: Tensor
  let gradOut: Tensor
  let referenceActivation: [Double]
  /// d · A'.
  private let referenceGradient: [Double]

  init(_ experts: ExpertsConfiguration, _ numRows: Int, _ random: inout Random) {
    self.experts = experts
    self.numRows = numRows
    counts = [numRows / 3, 0, numRows - numRows / 3]
    hidden = random.tensor([numRows, experts.gateUpSize], experts.dtype)
    gradOut = random.tensor([numRows, experts.ffnSize], experts.dtype)
    let reference = PlainActivation(configuration: experts)
    referenceActivation = rows(hidden.values, numRows).flatMap { row in
      reference.row(row.map { Dual($0) }).map(\.value)
    }
    let gradOut = rows(gradOut.values, numRows)
    referenceGradient = rows(hidden.values, numRows).enumerated().flatMap { row, point in
      gradient(at: point) { hidden in
        zip(reference.row(hidden), gradOut[row]).reduce(Dual(0)) { $0 + $1.1 * $1.0 }
      }
    }
  }

  var groups: RowGroups { RowGroups(counts: counts) }

  /// gradHidden = s · d · A', activated = s · A, dots = ⟨d, A⟩ (+ ⟨gradRows, downBias⟩).
  func checkBackward(weights kind: PlacedRows.Kind?, hasBias: Bool, _ random: inout Random) throws {
    let dtype = experts.dtype
    let weights = kind.map { PlacedRows($0, numRows, width: 1, dtype.sumType, &random) }
    let dots = PlacedRows.output(kind ?? .inOrder, numRows, width: 1, dtype.sumType, &random)
    let gradRows = PlacedRows(
      kind ?? .tokens, numRows, width: experts.hiddenSize, dtype, &random)
    let downBias = random.tensor([counts.count, experts.hiddenSize], dtype)
    let gradHidden = Tensor(hidden.view.shape, dtype)
    let activated = Tensor(gradOut.view.shape, dtype)
    try testBackend().activateBackward(
      experts, groups: groups,
      ActivationGradient(
        hidden: hidden.view, gradOut: gradOut.view, rowWeights: weights?.rows,
        gradRows: hasBias ? gradRows.rows : nil, downBias: hasBias ? downBias.view : nil,
        gradHidden: gradHidden.view, activated: activated.view, dots: dots.rows))

    let label = "\(experts.activation) \(experts.gate) \(String(describing: kind)) \(hasBias)"
    let scales = weights?.copies.values ?? Array(repeating: 1, count: numRows)
    expectClose(gradHidden, scaled(referenceGradient, by: scales), label)
    expectClose(activated, scaled(referenceActivation, by: scales), label)
    var products = products(gradOut.values, referenceActivation)
    if hasBias {
      let bias = rows(downBias.values, counts.count)
      let biases = counts.indices.flatMap { group in
        (0..<counts[group]).flatMap { _ in bias[group] }
      }
      products = zip(products, self.products(gradRows.copies.values, biases)).map(+)
    }
    expectClose(Tensor(dots.valuesInOrder, [numRows, 1], dtype.sumType), products, label)
    #expect(dots.leftTheRestAlone)

    // Outputs that are not requested must not affect the others.
    let alone = Tensor(hidden.view.shape, dtype)
    try testBackend().activateBackward(
      experts, groups: groups,
      ActivationGradient(
        hidden: hidden.view, gradOut: gradOut.view, rowWeights: weights?.rows,
        gradHidden: alone.view))
    #expect(alone.bytes == gradHidden.bytes, "\(label)")
  }

  private func scaled(_ values: [Double], by scales: [Double]) -> [Double] {
    zip(rows(values, numRows), scales).flatMap { row, scale in row.map { $0 * scale } }
  }

  private func products(_ left: [Double], _ right: [Double]) -> [Double] {
    zip(rows(left, numRows), rows(right, numRows)).map { left, right in
      zip(left, right).reduce(0) { $0 + $1.0 * $1.1 }
    }
  }
}

/// Splits a matrix into its rows.
private func rows(_ values: [Double], _ count: Int) -> [[Double]] {
  let width = values.count / max(count, 1)
  return (0..<count).map { Array(values[$0 * width..<($0 + 1) * width]) }
}
