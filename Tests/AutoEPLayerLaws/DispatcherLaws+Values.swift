import AutoEPCore

extension DispatcherLaw {
  static var valueLaws: [DispatcherLaw] {
    [
      DispatcherLaw("sendValues and sendBack return each slot's number, 0 without a row") {
        worlds in
        for item in DispatchCase.all(worlds.dtype) {
          for parts in [1, 3] { try checkValues(worlds, item, parts: parts) }
        }
      },
      DispatcherLaw("traffic: what is sent is what is received") { worlds in
        for item in DispatchCase.all(worlds.dtype) { try checkTraffic(worlds, item) }
      },
    ]
  }
}

/// Slot s has the number s + 1; a row sends its number back in parts.
private func checkValues(_ worlds: DispatcherWorlds, _ item: DispatchCase, parts: Int) throws {
  let k = item.configuration.topK
  let numbers = item.choice.indices.map { item.choice[$0] < 0 ? .nan : Double($0 + 1) }
  let results = try worlds.run(item) { rank in
    let sums = rank.configuration.dtype.sumType
    let plan = try rank.plan()
    let rows = try rank.heap.empty([plan.rowsCapacity, 1], sums)
    var arena = try rank.exchangeArena(plan)
    try rank.dispatcher.sendValues(
      rank.tensor(numbers, width: k, sums), plan, into: rows, &arena)
    let arrived = try rank.heap.values(rows)
    let partials = try rank.heap.tensor(
      arrived.flatMap { [$0 - Double(parts - 1)] + Array(repeating: 1, count: parts - 1) },
      [plan.rowsCapacity, parts], sums)
    let back = try rank.heap.empty([rank.tokens.count, k], sums)
    arena = try rank.exchangeArena(plan)
    try rank.dispatcher.sendBack(partials, plan, into: back, &arena)
    return (rank, arrived, try rank.heap.values(back))
  }
  for (rank, arrived, back) in results {
    let place = "rank \(rank.rank), \(parts) parts, \(item.name)"
    let own = rank.slotsOfRows.map { Double($0 + 1) }
    worlds.record.expect(
      arrived.filter { !$0.isNaN }.sorted() == own.sorted(),
      "numbers that arrive at \(place): \(arrived), not \(own) in any order")
    let expected = rank.slots.map { numbers[$0].isNaN ? 0 : numbers[$0] }
    worlds.record.expect(back == expected, "numbers back at \(place): \(back), not \(expected)")
  }
}

private func checkTraffic(_ worlds: DispatcherWorlds, _ item: DispatchCase) throws {
  let results = try worlds.run(item) { rank in
    let plan = try rank.plan()
    let arriving =
      rank.dispatcher.delivery == .tokens ? plan.rowCount.tokens : plan.rowCount.exact
    return (rank, arriving, rank.dispatcher.traffic(plan))
  }
  for (rank, exact, traffic) in results {
    let sent =
      rank.dispatcher.delivery == .tokens
      ? rank.tokens.reduce(0) { $0 + item.ranks(of: $1, of: worlds.size).count }
      : rank.slots.count { exact == nil || item.choice[$0] >= 0 }
    worlds.record.expect(
      traffic.sent == sent, "rank \(rank.rank) says \(traffic), but sends \(sent): \(item.name)")
    worlds.record.expect(
      exact.map { $0 == traffic.received } ?? true,
      "rank \(rank.rank) says \(traffic), but \(exact ?? 0) arrive: \(item.name)")
  }
  guard worlds.isWhole(results) else { return }
  let all = results.map(\.2)
  worlds.record.expect(
    sum(all, \.sent) == sum(all, \.received)
      && sum(all, \.sentRemote) == sum(all, \.receivedRemote),
    "what is sent is not what is received: \(all), \(item.name)")
  worlds.record.expect(
    worlds.size > 1 || sum(all, \.sentRemote) == 0, "a rank alone sends to others: \(all)")
}

private func sum(_ traffic: [DispatchTraffic], _ part: KeyPath<DispatchTraffic, Int>) -> Int {
  traffic.reduce(0) { $0 + $1[keyPath: part] }
}
