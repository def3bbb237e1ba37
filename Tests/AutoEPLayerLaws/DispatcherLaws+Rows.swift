import AutoEPCore

extension DispatcherLaw {
  static var rowLaws: [DispatcherLaw] {
    [
      DispatcherLaw("dispatch and combine give each token as often as it has rows") { worlds in
        for item in DispatchCase.all(worlds.dtype) { try checkRoundTrip(worlds, item) }
      },
      DispatcherLaw("ExpertsLayer.dispatch: the tokens' copies in expert order") { worlds in
        for item in DispatchCase.all(worlds.dtype) { try checkDispatch(worlds, item) }
      },
      DispatcherLaw("ExpertsLayer.combine: the weighted sums of rows in expert order") { worlds in
        for item in DispatchCase.all(worlds.dtype) { try checkCombine(worlds, item) }
      },
      DispatcherLaw("ExpertsLayer.combineBackward: the gradients of its rows and weights") {
        worlds in
        for item in DispatchCase.all(worlds.dtype) { try checkCombineBackward(worlds, item) }
      },
    ]
  }
}

/// Checks the dispatcher's own functions on small integers, whose sums are exact in every type.
private func checkRoundTrip(_ worlds: DispatcherWorlds, _ item: DispatchCase) throws {
  let h = item.configuration.hiddenSize
  let x = (0..<item.numTokens * h).map { Double($0 % 7 - 3) }
  let results = try worlds.run(item) { rank in
    let plan = try rank.plan()
    let tokens = try rank.tensor(x, width: h)
    let arriving = rank.dispatcher.delivery == .tokens ? plan.rowCount.tokens : plan.rowsCapacity
    let room = try rank.heap.empty([arriving, h], rank.configuration.dtype)
    var arena = try rank.exchangeArena(plan)
    let placed = try rank.dispatcher.dispatch(tokens, weights: nil, plan, room: room, &arena)
    var rows = room
    if case .tokens(let slots) = placed.placement {
      rows = try rank.heap.empty([plan.rowsCapacity, h], rank.configuration.dtype)
      try rank.backend.permute(
        placed.tensor, rowOfSlot: slots.rowOfSlot, weights: nil, into: rows)
    }
    let y = try rank.heap.empty(tokens.shape, tokens.dtype)
    arena = try rank.exchangeArena(plan)
    try rank.dispatcher.combine(rows, weights: nil, plan, into: y, dots: nil, &arena)
    return (rank.rank, rank.own(x, width: h), rank.slots, try rank.heap.values(y))
  }
  for (rank, x, slots, y) in results {
    let expected = x.indices.map { index in
      let first = slots.lowerBound + index / h * item.configuration.topK
      let rows = (first..<first + item.configuration.topK).count { item.choice[$0] >= 0 }
      return Double(rows) * x[index]
    }
    worlds.record.expect(y == expected, "y of rank \(rank), \(item.name): \(y), not \(expected)")
  }
}

private func checkDispatch(_ worlds: DispatcherWorlds, _ item: DispatchCase) throws {
  for isWeighted in [false, true] {
    let results = try worlds.run(item) { rank in
      let plan = try rank.plan()
      let rows = try rank.emptyRows(plan)
      var arena = try rank.layerArena(plan)
      try rank.layer.dispatch(
        plan, rank.tensor(item.x, width: item.configuration.hiddenSize),
        weights: isWeighted ? rank.topkWeights() : nil, into: rows, &arena)
      return (rank.rank, rank.slotsOfRows, try rank.heap.values(rows))
    }
    for (rank, slots, rows) in results {
      let expected = item.copies(item.x, of: slots, isWeighted: isWeighted)
      worlds.record.compare(
        Array(rows.prefix(expected.count)), expected, within: worlds.dtype.tolerance(),
        "rows of rank \(rank), weighted \(isWeighted), \(item.name)")
    }
  }
}

private func checkCombine(_ worlds: DispatcherWorlds, _ item: DispatchCase) throws {
  let h = item.configuration.hiddenSize
  let all = item.expertRows
  for isWeighted in [false, true] {
    let results = try worlds.run(item) { rank in
      let plan = try rank.plan()
      let y = try rank.heap.empty([rank.tokens.count, h], rank.configuration.dtype)
      var arena = try rank.layerArena(plan)
      try rank.layer.combine(
        plan, rank.rows(all, plan), weights: isWeighted ? rank.topkWeights() : nil, into: y,
        &arena)
      return (rank, try rank.heap.values(y))
    }
    let expected = item.sort.sums(
      all, topK: item.configuration.topK, width: h, weights: isWeighted ? item.topkWeights : nil)
    for (rank, y) in results {
      worlds.record.compare(
        y, rank.own(expected, width: h), within: worlds.dtype.tolerance(),
        "y of rank \(rank.rank), weighted \(isWeighted), \(item.name)")
    }
  }
}

private func checkCombineBackward(_ worlds: DispatcherWorlds, _ item: DispatchCase) throws {
  let (h, k) = (item.configuration.hiddenSize, item.configuration.topK)
  let all = item.expertRows
  let results = try worlds.run(item) { rank in
    let plan = try rank.plan()
    let gradRows = try rank.emptyRows(plan)
    let gradWeights = try rank.heap.empty([rank.tokens.count, k], rank.configuration.dtype.sumType)
    var arena = try rank.layerArena(plan)
    try rank.layer.combineBackward(
      plan, gradY: rank.tensor(item.gradY, width: h), rows: rank.rows(all, plan),
      topkWeights: rank.topkWeights(), gradRows: gradRows, gradTopkWeights: gradWeights, &arena)
    return (rank, try rank.heap.values(gradRows), try rank.heap.values(gradWeights))
  }
  let gradRows = item.sort.rows(item.gradY, topK: k, width: h)
  let dots = item.sort.toSlots(plainDots(gradRows, all, width: h))
  for (rank, gradRows, gradWeights) in results {
    let expected = item.copies(item.gradY, of: rank.slotsOfRows, isWeighted: true)
    worlds.record.compare(
      Array(gradRows.prefix(expected.count)), expected, within: worlds.dtype.tolerance(),
      "gradient of the rows of rank \(rank.rank), \(item.name)")
    worlds.record.compare(
      gradWeights, rank.own(dots, width: k), within: worlds.dtype.sumType.tolerance(),
      "gradient of the weights of rank \(rank.rank), \(item.name)")
  }
}

extension DispatchCase {
  /// Copies the tokens of slots to rows.
  fileprivate func copies(_ tokens: [Double], of slots: [Int], isWeighted: Bool) -> [Double] {
    let h = configuration.hiddenSize
    return slots.flatMap { slot in
      (0..<h).map {
        (isWeighted ? topkWeights[slot] : 1) * tokens[slot / configuration.topK * h + $0]
      }
    }
  }

  /// One row for each slot of all ranks that has an expert, in expert order.
  fileprivate var expertRows: [Double] {
    var random = LawRandom(32)
    return random.values(sort.slotOfRow.count * configuration.hiddenSize)
      .map { configuration.dtype.rounded($0) }
  }
}

extension DispatcherRank {
  fileprivate func emptyRows(_ plan: DispatchPlan) throws -> TensorView {
    try heap.empty([plan.rowsCapacity, configuration.hiddenSize], configuration.dtype)
  }

  /// The arena of a layer's own dispatch, combine and combineBackward.
  fileprivate func layerArena(_ plan: DispatchPlan) throws -> Arena {
    try heap.arena(
      layer.dispatchBytes(numTokens: tokens.count, plan.rowCount))
  }

  /// This rank's part of all rows in expert order, padded with NaN.
  fileprivate func rows(_ all: [Double], _ plan: DispatchPlan) throws -> TensorView {
    let h = configuration.hiddenSize
    let places = item.sort.slotOfRow.indices.filter {
      dispatcher.experts.contains(item.choice[item.sort.slotOfRow[$0]])
    }
    let own = places.flatMap { all[$0 * h..<($0 + 1) * h] }
    let unused = [Double](repeating: .nan, count: plan.rowsCapacity * h - own.count)
    return try heap.tensor(own + unused, [plan.rowsCapacity, h], configuration.dtype)
  }
}
