import AutoEPCore
import AutoEPSystem

extension DispatcherLaw {
  static var planLaws: [DispatcherLaw] {
    [
      DispatcherLaw("plan: rows per expert and counts") { worlds in
        for item in DispatchCase.all(worlds.dtype) { try checkCounts(worlds, item) }
      },
      DispatcherLaw("plan: a wrong choice fails on every rank, and the group lives on") { worlds in
        // A rank alone does not wait for its device: the next call throws.
        guard worlds.backend.space == .host || worlds.size > 1, !worlds.setting.ranksShareDevice
        else { return }
        let item = DispatchCase.usual(worlds.dtype)
        for rank in Set([0, worlds.size - 1]).sorted() {
          for value in [-2, item.configuration.numExperts] {
            try checkWrongChoice(worlds, item, wrongRank: rank, value: value)
          }
        }
      },
      DispatcherLaw("open: plans of other layers and of other token numbers are refused") {
        worlds in
        guard worlds.backend.space == .host else { return }
        try checkForeignPlans(worlds, DispatchCase.usual(worlds.dtype))
      },
    ]
  }
}

private func checkCounts(_ worlds: DispatcherWorlds, _ item: DispatchCase) throws {
  for dtype in [DataType.i32, .i64] {
    let results = try worlds.run(item) { rank in
      let sent = try rank.heap.empty([item.configuration.numExperts], .i32)
      let received = try rank.heap.empty([rank.dispatcher.experts.count], .i32)
      let memory = try rank.planMemory()
      var arena = try rank.heap.arena(
        rank.dispatcher.planScratchBytes(numTokens: rank.tokens.count))
      _ = try rank.dispatcher.plan(
        rank.choice(dtype), counts: PlanCounts(tokensPerExpert: sent), in: memory, &arena)
      arena = try rank.heap.arena(
        rank.dispatcher.planScratchBytes(numTokens: rank.tokens.count))
      let rowCount = try rank.dispatcher.plan(
        rank.choice(dtype), counts: PlanCounts(rowsPerExpert: received), in: memory, &arena)
      return (
        rank, rowCount, try rank.open(memory, rowCount).rowsInUse, try rank.heap.values(sent),
        try rank.heap.values(received)
      )
    }
    for (rank, rowCount, rowsInUse, sent, received) in results {
      let place = "rank \(rank.rank), \(dtype.name), \(item.name)"
      let own = item.choice[rank.slots]
      let expected = (0..<item.configuration.numExperts).map { e in Double(own.count { $0 == e }) }
      let arriving = item.sort.counts[rank.dispatcher.experts]
      worlds.record.expectSame(sent, expected, "tokens_per_expert of \(place)")
      worlds.record.expectSame(received, arriving.map { Double($0) }, "rows_per_expert of \(place)")
      let rows = arriving.reduce(0, +)
      worlds.record.expect(
        rowCount.exact.map { $0 == rows } ?? (rowCount.capacity >= rows),
        "\(place) has \(rows) rows; the plan says \(rowCount)")
      worlds.record.expect(
        rowsInUse.map { $0 == rows } ?? true,
        "\(place) has \(rows) rows; the opened plan says \(rowsInUse ?? 0)")
    }
  }
}

private func checkWrongChoice(
  _ worlds: DispatcherWorlds, _ item: DispatchCase, wrongRank: Int, value: Int
) throws {
  let slot = 1
  let after = try worlds.run(item) { rank in
    var choice = rank.own(item.choice.map { Double($0) }, width: item.configuration.topK)
    let isWrong = rank.rank == wrongRank
    if isWrong { choice[slot] = Double(value) }
    let idx = try rank.heap.tensor(choice, [rank.tokens.count, item.configuration.topK], .i64)
    var arena = try rank.heap.arena(
      rank.dispatcher.planScratchBytes(numTokens: rank.tokens.count))
    rank.record.expectError(
      isWrong ? [.invalidArgument] : [.communication, .invalidArgument],
      saying: isWrong
        ? [rank.backend.space == .host ? "\(value) at slot \(slot)" : "topk_idx"]
        : ["rank \(wrongRank)"],
      "rank \(rank.rank), when rank \(wrongRank) chooses \(value)"
    ) {
      _ = try rank.dispatcher.plan(idx, counts: PlanCounts(), in: rank.planMemory(), &arena)
    }
    // If a rank had sent more than its failure, this pass would receive it as its own data.
    return try LayerPass(rank).run().y
  }
  let reference = try worlds.run(item) { try LayerPass($0).run().y }
  for (after, reference) in zip(after, reference) {
    worlds.record.expectSame(after, reference, "y after rank \(wrongRank) chose \(value)")
  }
}

private func checkForeignPlans(_ worlds: DispatcherWorlds, _ item: DispatchCase) throws {
  _ = try worlds.run(item, layers: 2) { rank in
    let memory = try rank.planMemory(numTokens: rank.tokens.count + 1)
    let rowCount = try rank.makePlan(in: memory)
    func refuses(_ what: String, _ body: (inout Arena) throws -> Void) throws {
      var arena = try rank.heap.arena(
        rank.dispatcher.openBytes(.exact(rowCount.capacity + 1, tokens: rowCount.tokens)))
      rank.record.expectError([.invalidArgument], saying: ["plan"], "rank \(rank.rank), \(what)") {
        try body(&arena)
      }
    }
    try refuses("a plan of another layer") {
      _ = try rank.layers[1].open(
        memory, numTokens: rank.tokens.count, rowCount: rowCount, &$0)
    }
    try refuses("a plan of one token fewer") {
      _ = try rank.dispatcher.open(
        memory, numTokens: rank.tokens.count + 1, rowCount: rowCount, &$0)
    }
    let foreign = try rank.planMemory()
    try refuses("bytes that are no plan") {
      _ = try rank.dispatcher.open(
        foreign, numTokens: rank.tokens.count, rowCount: rowCount, &$0)
    }
    try refuses("another number of rows") {
      _ = try rank.dispatcher.open(
        memory, numTokens: rank.tokens.count,
        rowCount: .exact(rowCount.capacity + 1, tokens: rowCount.tokens),
        &$0)
    }
    _ = try rank.open(memory, rowCount)
  }
}
