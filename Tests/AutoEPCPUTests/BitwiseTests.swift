import AutoEPCore
import Testing

@testable import AutoEPCPU

/// A row's bits do not depend on its position, the number of other rows, or the number of threads.
@Suite struct BitwiseTests {
  private let inSize = 270
  private let outSize = 35

  @Test(arguments: testKernels, [DataType.f64, .f32, .bf16])
  func aRowsProductDependsOnTheRowAlone(kernels: KernelSet, dtype: DataType) throws {
    let backend = testBackend(kernels: kernels)
    var random = Random(71)
    let row = random.values(inSize)
    for layout in [WeightLayout.outIn, .inOut] {
      let weight = random.values(inSize * outSize)
      let alone = try product(backend, row, [1], weight, layout, dtype)
      // Row 0, the rows around every tile's end, and a second row block.
      for (place, count) in [(0, 2), (3, 4), (5, 17), (13, 14), (14, 15), (95, 97), (299, 300)] {
        var rows = random.values(count * inSize)
        rows.replaceSubrange(place * inSize..<(place + 1) * inSize, with: row)
        let out = try product(backend, rows, [count], weight, layout, dtype)
        let width = alone.count
        #expect(Array(out[place * width..<(place + 1) * width]) == alone, "\(place) of \(count)")
      }
    }
  }

  @Test(arguments: testKernels, [DataType.f64, .f32, .bf16])
  func aGroupsProductsDoNotDependOnOtherGroups(kernels: KernelSet, dtype: DataType) throws {
    let backend = testBackend(kernels: kernels)
    var random = Random(72)
    let (rows, weights) = (random.values(40 * inSize), random.values(3 * inSize * outSize))
    let together = try product(backend, rows, [9, 20, 11], weights, .outIn, dtype)
    let alone = try product(
      backend, Array(rows[9 * inSize..<29 * inSize]), [20],
      Array(weights[inSize * outSize..<2 * inSize * outSize]), .outIn, dtype)
    let rowBytes = outSize * dtype.byteCount
    #expect(Array(together[9 * rowBytes..<29 * rowBytes]) == alone)
  }

  @Test(arguments: testKernels)
  func productsAreTheSameOnAnyNumberOfThreads(kernels: KernelSet) throws {
    for dtype in [DataType.f64, .f32, .bf16] {
      var random = Random(73)
      let groups = RowGroups(counts: [100, 0, 311])
      let rows = random.tensor([411, 9], dtype)
      let gradOut = random.tensor([411, 300], dtype)
      let weights = random.tensor([3, 300, 9], dtype)
      let results = try [1, 2, 3].map { threads in
        let backend = testBackend(threads: threads, kernels: kernels)
        let (out, gradWeights) = (Tensor([411, 300], dtype), Tensor([3, 300, 9], dtype))
        try backend.groupedGEMM(
          ExpertRows(rows.view), weights: weights.view, layout: .outIn, bias: nil, groups: groups,
          into: ExpertRows(out.view))
        try backend.groupedGEMMWeightGradient(
          gradOut: ExpertRows(gradOut.view), rows: ExpertRows(rows.view), layout: .outIn,
          groups: groups, into: gradWeights.view, accumulate: false)
        return out.bytes + gradWeights.bytes
      }
      #expect(results[1] == results[0])
      #expect(results[2] == results[0])
    }
  }

  /// Threads split experts by rows, and experts with few rows by features too. No split may change the dots, whose
  /// parts end wherever a split can be.
  @Test(arguments: testKernels, [WeightLayout.outIn, .inOut])
  func expertsAreTheSameOnAnyNumberOfThreads(kernels: KernelSet, layout: WeightLayout) throws {
    for dtype in [DataType.f64, .f32, .bf16] {
      let sizes: [(counts: [Int], ffnSize: Int)] = [
        ([100, 0, 311], 70), ([5, 3], 1100), ([1], 301),
      ]
      for (counts, ffnSize) in sizes {
        var random = Random(76)
        let experts = ExpertsData(
          counts, hiddenSize: 33, ffnSize: ffnSize, dtype, hasBiases: true, &random
        ) { $0.weightLayout = layout }
        let rows = PlacedRows(.tokens, experts.numRows, width: 33, dtype, &random)
        let weights = PlacedRows(.indexed, experts.numRows, width: 1, dtype.sumType, &random)
        let results = try [1, 2, 3].map { (threads: Int) -> [[UInt8]] in
          let backend = testBackend(threads: threads, kernels: kernels)
          var random = random
          let out = PlacedRows.output(.indexed, experts.numRows, width: 33, dtype, &random)
          let hidden = try experts.forward(backend, rows.rows, into: out.rows)
          let made = try experts.backward(
            backend, hidden: hidden, gradRows: rows.rows, rowWeights: weights.rows,
            placed: .indexed, ExpertsData.Wishes(), &random)
          #expect(made.dots != nil)
          return ([hidden, out.memory, made.gradInputs.memory] + made.tensors).map(\.bytes)
        }
        #expect(results[1] == results[0], "\(counts) \(dtype)")
        #expect(results[2] == results[0], "\(counts) \(dtype)")
      }
    }
  }

  /// Large results are streamed past the caches; every other row here starts inside a cache line.
  @Test(arguments: testKernels, [DataType.f64, .f32, .bf16])
  func largeResultsHaveTheBitsOfSmallOnes(kernels: KernelSet, dtype: DataType) throws {
    let backend = testBackend(threads: 2, kernels: kernels)
    var random = Random(75)
    let (groups, count, width, depth) = (4, 1400 / dtype.byteCount, 1000, 3)
    let narrow = random.tensor([groups * count, depth], dtype)
    let wide = random.tensor([groups * depth, width], dtype)
    let short = random.tensor([groups * depth, count], dtype)
    for layout in [WeightLayout.outIn, .inOut] {
      try expectLikeItsParts(groups, of: [groups * count, width], dtype) { part, of, out in
        let shape = layout == .outIn ? [of, width, depth] : [of, depth, width]
        try backend.groupedGEMM(
          ExpertRows(narrow.part(part, [of * count, depth])), weights: wide.part(part, shape),
          layout: layout, bias: nil, groups: repeating(count, of), into: ExpertRows(out))
      }
    }
    try expectLikeItsParts(groups, of: [groups, count, width], dtype) { part, of, out in
      try backend.groupedGEMMWeightGradient(
        gradOut: ExpertRows(short.part(part, [of * depth, count])),
        rows: ExpertRows(wide.part(part, [of * depth, width])), layout: .outIn,
        groups: repeating(depth, of), into: out, accumulate: false)
    }
  }

  /// Expects a result to have the bits of its parts. `make` gets the number of a part, its number of groups, and
  /// the target.
  private func expectLikeItsParts(
    _ groups: Int, of shape: [Int], _ dtype: DataType,
    _ make: (Int, Int, TensorView) throws -> Void
  ) throws {
    let (whole, parts) = (Tensor(shape, dtype), Tensor(shape, dtype))
    try make(0, groups, whole.view)
    for group in 0..<groups {
      try make(group, 1, parts.part(group, [shape[0] / groups] + shape.dropFirst()))
    }
    #expect(whole.bytes == parts.bytes)
  }

  private func repeating(_ count: Int, _ groups: Int) -> RowGroups {
    RowGroups(counts: [Int](repeating: count, count: groups))
  }

  @Test(arguments: [DataType.f64, .f32, .bf16])
  func otherStepsAreTheSameOnAnyNumberOfThreads(dtype: DataType) throws {
    let results = try [1, 2, 3].map { try allSteps(testBackend(threads: $0), dtype) }
    #expect(results[1] == results[0])
    #expect(results[2] == results[0])
  }

  /// Every step except the products, on sizes that several threads share.
  private func allSteps(_ backend: CPUBackend, _ dtype: DataType) throws -> [[UInt8]] {
    var random = Random(74)
    let (numTokens, topK, width, numExperts) = (700, 2, 96, 32)
    let wide: DataType = dtype == .f64 ? .f64 : .f32
    var configuration = RouteConfiguration(score: .sinkhorn, topK: topK)
    configuration.sinkhornIterations = 3
    let logits = random.tensor([numTokens, numExperts], dtype)
    let topkIdx = Tensor([numTokens, topK], .i32)
    let topkWeights = Tensor([numTokens, topK], wide)
    let tokensPerExpert = Tensor([numExperts], .i32)
    try backend.route(
      configuration, logits: logits.view, selectionBias: nil, topkIdx: topkIdx.view,
      topkWeights: topkWeights.view, tokensPerExpert: tokensPerExpert.view)
    let gradLogits = Tensor([numTokens, numExperts], dtype)
    try backend.routeBackward(
      configuration, logits: logits.view, topkIdx: topkIdx.view,
      gradTopkWeights: topkWeights.view, into: gradLogits.view)
    let loss = Tensor([1], wide)
    backend.routerZLoss(logits: logits.view, into: loss.view)

    let x = random.tensor([numTokens, width], dtype)
    let rowOfSlot = Tensor([numTokens, topK], .i32)
    let offsets = Tensor([numExperts + 1], .i32)
    var arena = Arena.none
    try backend.sort(
      topkIdx.view, numExperts: numExperts,
      into: SlotSort(
        offsets: offsets.view, rowOfSlot: rowOfSlot.view, slotOfRow: nil,
        tokensPerExpert: tokensPerExpert.view), &arena)
    let groups = RowGroups(.offsets(offsets.view))
    let rows = Tensor([numTokens * topK, width], dtype)
    try backend.permute(x.view, rowOfSlot: rowOfSlot.view, weights: nil, into: rows.view)
    let y = Tensor([numTokens, width], dtype)
    try backend.unpermute(
      rows.view, rowOfSlot: rowOfSlot.view, weights: topkWeights.view, into: y.view)
    let gradWeights = Tensor([numTokens, topK], wide)
    try backend.slotDot(x.view, rows.view, rowOfSlot: rowOfSlot.view, into: gradWeights.view)
    let (rowWeights, gathered) = (
      Tensor([rows.view.shape[0], 1], wide), Tensor([numTokens, topK], wide)
    )
    try backend.scatterToRows(
      topkWeights.view, rowOfSlot: rowOfSlot.view, into: rowWeights.view)
    try backend.gatherFromRows(
      rowWeights.view, rowOfSlot: rowOfSlot.view, into: gathered.view)
    let squares = Tensor([rows.view.shape[0], 1], wide)
    try backend.rowDot(
      ExpertRows(rows.view), ExpertRows(rows.view), groups: groups, into: ExpertRows(squares.view))
    let sums = Tensor([numExperts, width], dtype)
    try backend.groupedRowSum(
      ExpertRows(rows.view), weights: ExpertRows(rowWeights.view), groups: groups, into: sums.view,
      accumulate: false)
    let experts = ExpertsConfiguration(
      numExperts: numExperts, topK: topK, hiddenSize: width, ffnSize: width / 2, dtype: dtype)
    let activated = Tensor([numTokens * topK, width / 2], dtype)
    try backend.activate(experts, hidden: rows.view, groups: groups, into: activated.view)
    let gradRows = Tensor([numTokens * topK, width], dtype)
    let weighted = Tensor([numTokens * topK, width / 2], dtype)
    let dots = Tensor([rows.view.shape[0], 1], wide)
    try backend.activateBackward(
      experts, groups: groups,
      ActivationGradient(
        hidden: rows.view, gradOut: activated.view, rowWeights: ExpertRows(rowWeights.view),
        gradHidden: gradRows.view, activated: weighted.view, dots: ExpertRows(dots.view)))
    return [
      topkIdx, topkWeights, tokensPerExpert, gradLogits, loss, rowOfSlot, offsets, rows, y,
      gradWeights, rowWeights, gathered, squares, sums, activated, gradRows, weighted, dots,
    ].map(\.bytes)
  }

  private func product(
    _ backend: CPUBackend, _ rows: [Double], _ counts: [Int], _ weights: [Double],
    _ layout: WeightLayout, _ dtype: DataType
  ) throws -> [UInt8] {
    let numRows = counts.reduce(0, +)
    let shape = layout == .outIn ? [outSize, inSize] : [inSize, outSize]
    let out = Tensor([numRows, outSize], dtype)
    try backend.groupedGEMM(
      ExpertRows(Tensor(rows, [numRows, inSize], dtype).view),
      weights: Tensor(weights, [counts.count] + shape, dtype).view, layout: layout, bias: nil,
      groups: RowGroups(counts: counts), into: ExpertRows(out.view))
    return out.bytes
  }
}
