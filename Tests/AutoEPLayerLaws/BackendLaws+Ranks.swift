import AutoEPCore

extension BackendLaw {
  static let rankLaws = [
    BackendLaw("ranksOfTokens: the ranks of a token's experts", dependsOnType: false) { run in
      for item in try RankCase.all(run) {
        let ranks = try run.output([item.numTokens, item.numRanks], .i32)
        try run.backend.ranksOfTokens(item.topkIdx, numExperts: item.numExperts, into: ranks)
        try run.expectExactly(ranks, item.ranks.map { Double($0) }, item.name)
      }
    },
    BackendLaw("choicesOfRanks: the choices as their ranks count them", dependsOnType: false) {
      run in
      for item in try RankCase.all(run) {
        let rows = PlainSort(item.ranks, numExperts: item.numRanks)
        // A row more than there are shows that the rest stays as it is.
        let count = rows.slotOfRow.count + 1
        let choices = try run.integers(
          Array(repeating: 77, count: count * item.topK), [count, item.topK])
        try run.backend.choicesOfRanks(
          item.topkIdx, numExperts: item.numExperts,
          rowOfSlot: run.integers(rows.rowOfSlot, [item.numTokens, item.numRanks]), into: choices)
        let expected = rows.slotOfRow.flatMap { item.choices(ofPair: $0) }
        try run.expectExactly(
          choices, (expected + Array(repeating: 77, count: item.topK)).map { Double($0) },
          item.name)
      }
    },
  ]
}

/// Random choices, some of which are no expert.
private struct RankCase {
  let name: String
  let numExperts: Int
  let numRanks: Int
  let numTokens: Int
  let topK: Int
  let topkIdx: TensorView
  private let values: [Int]

  static func all(_ run: BackendRun) throws -> [RankCase] {
    var cases: [RankCase] = []
    for dtype in [DataType.i32, .i64] {
      for (experts, ranks) in [(1, 1), (8, 2), (5, 3), (3, 8), (128, 8)] {
        for tokens in [0, 1, 700] {
          cases.append(try RankCase(run, experts, ranks, tokens, topK: min(experts, 4), dtype))
        }
      }
    }
    return cases
  }

  private init(
    _ run: BackendRun, _ experts: Int, _ ranks: Int, _ tokens: Int, topK: Int, _ dtype: DataType
  ) throws {
    name = "\(experts) experts, \(ranks) ranks, \(tokens) tokens, \(dtype.name)"
    (numExperts, numRanks, numTokens, self.topK) = (experts, ranks, tokens, topK)
    values = (0..<tokens * topK).map { _ in run.random.below(experts + 1) - 1 }
    topkIdx = try run.integers(values, [tokens, topK], dtype)
  }

  private func experts(of rank: Int) -> Range<Int> {
    expertRange(numExperts: numExperts, numRanks: numRanks, rank: rank)
  }

  private func chosen(by token: Int) -> ArraySlice<Int> {
    values[token * topK..<(token + 1) * topK]
  }

  /// `[T,P]`.
  var ranks: [Int] {
    (0..<numTokens * numRanks).map { pair in
      let rank = pair % numRanks
      return chosen(by: pair / numRanks).contains { experts(of: rank).contains($0) } ? rank : -1
    }
  }

  /// The choices of a token as a rank counts them.
  func choices(ofPair pair: Int) -> [Int] {
    let experts = experts(of: pair % numRanks)
    return chosen(by: pair / numRanks).map {
      experts.contains($0) ? $0 - experts.lowerBound : -1
    }
  }
}
