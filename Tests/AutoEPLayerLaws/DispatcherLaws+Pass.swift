import AutoEPCore

extension DispatcherLaw {
  static var passLaws: [DispatcherLaw] {
    [
      DispatcherLaw("a pass gives the results of one rank with all tokens and experts") { worlds in
        for item in DispatchCase.all(worlds.dtype) { try checkPass(worlds, item) }
      },
      DispatcherLaw("a rerun has the same bits, also with the same plan") { worlds in
        try checkRerun(worlds, DispatchCase.usual(worlds.dtype))
      },
    ]
  }
}

/// A rank's results, and their position in the whole.
private struct RankResults: Sendable {
  let rank: Int
  let tokens: Range<Int>
  let experts: Range<Int>
  let results: LayerPass.Results
}

private func checkPass(_ worlds: DispatcherWorlds, _ item: DispatchCase) throws {
  let reference = try referencePass(worlds, item)
  let ranks = try worlds.run(item) { rank in
    RankResults(
      rank: rank.rank, tokens: rank.tokens, experts: rank.dispatcher.experts,
      results: try LayerPass(rank).run())
  }
  for rank in ranks { compare(worlds, item, rank, reference) }
}

/// The pass of a single rank, which is checked against the plain loops.
private func referencePass(
  _ worlds: DispatcherWorlds, _ item: DispatchCase
) throws -> LayerPass.Results {
  let alone = DispatcherWorlds(
    backend: worlds.backend, setting: worlds.setting.ofOneRank, dtype: worlds.dtype, size: 1,
    record: worlds.record,
    make: { configuration, _ in
      [LocalDispatcher(backend: worlds.backend, configuration: configuration, layer: 1)]
    })
  let reference = try alone.run(item) { try LayerPass($0).run() }[0]
  let plain = item.plainPass()
  // One rounding for each tensor between the steps of a pass: hidden, the activation, the rows, and the result.
  let tolerance = worlds.dtype.tolerance(roundings: 5)
  for (name, part) in parts {
    worlds.record.compare(
      reference[keyPath: part], plain[keyPath: part], within: tolerance,
      "one rank, \(name), \(item.name)")
  }
  return reference
}

private let parts: [(String, KeyPath<LayerPass.Results, [Double]> & Sendable)] = [
  ("y", \.y), ("grad_x", \.gradX), ("grad_topk_weights", \.gradTopkWeights),
  ("gradient of gate/up", \.weights.gateUp), ("gradient of gate/up's bias", \.weights.gateUpBias),
  ("gradient of down", \.weights.down), ("gradient of down's bias", \.weights.downBias),
]

private func compare(
  _ worlds: DispatcherWorlds, _ item: DispatchCase, _ rank: RankResults,
  _ reference: LayerPass.Results
) {
  let experts = item.configuration.numExperts
  for (index, (name, part)) in parts.enumerated() {
    let all = reference[keyPath: part]
    let isOfTokens = index < 3
    let (places, count) = isOfTokens ? (rank.tokens, item.numTokens) : (rank.experts, experts)
    let width = all.count / max(count, 1)
    let own = Array(all[places.lowerBound * width..<places.upperBound * width])
    let got = rank.results[keyPath: part]
    let what = "\(name) of rank \(rank.rank), \(item.name)"
    if isOfTokens {
      worlds.compare(got, own, what)
    } else {
      worlds.record.compare(got, own, within: worlds.dtype.tolerance(), what)
    }
  }
}

private func checkRerun(_ worlds: DispatcherWorlds, _ item: DispatchCase) throws {
  let runs = try worlds.run(item) { rank in
    let pass = try LayerPass(rank)
    let memory = try rank.planMemory()
    let rowCount = try rank.makePlan(in: memory)
    return [
      try pass.run(memory, rowCount), try pass.run(memory, rowCount),
      try pass.run(memory, rowCount, overwritesSaved: true), try pass.run(),
    ]
  }
  for (rank, runs) in runs.enumerated() {
    for (name, part) in parts {
      for (number, run) in runs.enumerated().dropFirst() {
        worlds.record.expectSame(
          run[keyPath: part], runs[0][keyPath: part],
          "\(name) of the \(rank)-th rank here, run \(number)")
      }
    }
  }
}

extension DispatcherSetting {
  fileprivate var ofOneRank: DispatcherSetting {
    var setting = self
    setting.firstRank = 0
    return setting
  }
}
