import AutoEPCore

extension BackendLaw {
  static let independenceLaws = [
    BackendLaw("groupedGEMM: a row's result does not depend on its place and neighbours") { run in
      for (inSize, outSize) in [(270, 35), (264, 392)] {
        for layout in [WeightLayout.outIn, .inOut] {
          for kind in [LawGroups.Kind.counts32, .prepared] {
            let size = PlainProducts(counts: [40, 0, 300], inSize: inSize, outSize: outSize)
            try checkEachRowAlone(run, size, layout, kind)
          }
        }
      }
    },
    BackendLaw("routerLogits: a token's logits do not depend on its place and neighbours") { run in
      for (width, experts) in [(129, 7), (264, 130)] {
        let (x, router) = (try run.random([300, width]), try run.random([experts, width]))
        let together = try run.output([300, experts])
        try run.backend.routerLogits(x.view, router: router.view, into: together)
        let logits = try run.values(together)
        for row in testedRows(300) {
          let alone = try run.output([1, experts])
          try run.backend.routerLogits(
            run.tensor(Array(x.values[row * width..<(row + 1) * width]), [1, width]).view,
            router: router.view, into: alone)
          try run.expectExactly(
            alone, Array(logits[row * experts..<(row + 1) * experts]),
            "token \(row), H \(width), E \(experts)")
        }
      }
    },
    BackendLaw("experts: a row's result and gradient do not depend on its place and neighbours") {
      run in
      for item in ExpertsCase.large(run) {
        try checkTokensAlone(run, item)
      }
    },
  ]
}

/// The first and last rows, and rows around the ends of tiles.
private func testedRows(_ count: Int) -> [Int] {
  [0, 1, 13, 39, 40, 127, 128, 255, 256, count - 1].filter { $0 < count }
}

private func checkEachRowAlone(
  _ run: BackendRun, _ size: PlainProducts, _ layout: WeightLayout, _ kind: LawGroups.Kind
) throws {
  let weights = try run.random(size.weightShape(layout))
  let rows = try run.random([size.numRows, size.inSize])
  func product(_ counts: [Int], _ rows: TensorView) throws -> TensorView {
    let groups = try LawGroups(run, counts, kind, widths: (size.inSize, size.outSize))
    let out = try run.output([rows.shape[0], size.outSize])
    try run.backend.groupedGEMM(
      ExpertRows(rows), weights: weights.view, layout: layout, bias: nil, groups: groups.groups,
      into: ExpertRows(out))
    return out
  }
  let together = try run.values(product(size.counts, rows.view))
  for row in testedRows(size.numRows) {
    let group = size.groupOfRow[row]
    let values = Array(rows.values[row * size.inSize..<(row + 1) * size.inSize])
    let alone = try product(
      size.counts.indices.map { $0 == group ? 1 : 0 }, run.tensor(values, [1, size.inSize]).view)
    try run.expectExactly(
      alone, Array(together[row * size.outSize..<(row + 1) * size.outSize]),
      "row \(row) of \(size.name(layout, kind))")
  }
}

/// Checks that a token alone gets the results that it has among all tokens.
private func checkTokensAlone(_ run: BackendRun, _ item: ExpertsCase) throws {
  let data = try ExpertsData(run, item.configuration, choice: item.choice, hasBias: item.hasBias)
  let all = try ExpertsPass(run, data)
  let (h, k) = (item.configuration.hiddenSize, item.configuration.topK)
  for token in testedRows(data.numTokens) {
    let slots = token * k..<(token + 1) * k
    let own = try ExpertsData(run, token, of: data, choice: Array(item.choice[slots]))
    let pass = try ExpertsPass(run, own)
    for slot in slots where data.sort.rowOfSlot[slot] >= 0 {
      let place = "slot \(slot) of \(item.name)"
      let (row, ownRow) = (data.sort.rowOfSlot[slot], own.sort.rowOfSlot[slot - slots.lowerBound])
      run.record.expectSame(
        pass.results(ownRow, h), all.results(row, h), "result of \(place)")
      run.record.expectSame(
        pass.gradInputs(ownRow, h), all.gradInputs(row, h), "gradInputs of \(place)")
      run.record.expectSame(pass.dots(ownRow), all.dots(row), "dots of \(place)")
    }
  }
}

/// The results per row of a forward and a backward of the experts.
private struct ExpertsPass {
  private let resultValues: [Double]
  private let gradInputValues: [Double]
  private let dotValues: [Double]
  private let dotWidth: Int

  init(_ run: BackendRun, _ data: ExpertsData) throws {
    let configuration = data.configuration
    let (rows, h) = (data.capacity, configuration.hiddenSize)
    let hidden = try run.output([rows, configuration.gateUpSize])
    let results = try run.output([rows, h])
    var arena = try run.arena(
      run.backend.expertsForwardBytes(configuration, rowsCapacity: rows))
    try run.backend.expertsForward(
      data.call(), rows: ExpertRows(data.x.view, .tokens(data.slots)), hidden: hidden,
      into: ExpertRows(results), &arena)
    let dots = try run.output([rows, run.backend.dotParts(configuration)], run.dtype.sumType)
    let weights = try run.tensor(
      data.padded(data.rowWeights, width: 1), [rows, 1], run.dtype.sumType)
    let gradInputs = try run.output([rows, h])
    let parts = try run.backend.expertsBackward(
      data.call(),
      ExpertsGradient(
        gradRows: ExpertRows(data.gradY.view, .tokens(data.slots)),
        rowWeights: ExpertRows(weights.view), hidden: hidden,
        gradHidden: run.output(hidden.shape),
        activated: run.output([rows, configuration.ffnSize]), dots: ExpertRows(dots),
        gradInputs: ExpertRows(gradInputs),
        gradients: ExpertsGradients(gateUp: nil, gateUpBias: nil, down: nil, downBias: nil)))
    resultValues = try run.values(results)
    gradInputValues = try run.values(gradInputs)
    dotWidth = parts?.shape[1] ?? 0
    dotValues = try parts.map { try run.values($0) } ?? []
  }

  func results(_ row: Int, _ width: Int) -> [Double] {
    Array(resultValues[row * width..<(row + 1) * width])
  }

  func gradInputs(_ row: Int, _ width: Int) -> [Double] {
    Array(gradInputValues[row * width..<(row + 1) * width])
  }

  func dots(_ row: Int) -> [Double] {
    Array(dotValues[row * dotWidth..<(row + 1) * dotWidth])
  }
}
