import AutoEPSystem

extension AllToAllDispatcher {
  /// Sorts, and exchanges the counts; a choice out of range fails on every rank, with its reason on
  /// the one that made it.
  public func plan(topkIdx: TensorView, numExperts: Int) throws(EngineError) -> DispatchPlan {
    let ranges = (0..<transport.size).map {
      expertRange(numExperts: numExperts, numRanks: transport.size, rank: $0)
    }
    let rowOfSlot = try HostBuffer(shape: topkIdx.shape, dtype: .i32)
    let sent: [Int]
    do throws(EngineError) {
      sent = try sort(topkIdx, numExperts: numExperts, rowOfSlot: rowOfSlot)
    } catch {
      try tellFailure(ranges)
      throw error
    }
    return try DispatchPlan(
      topkIdx: topkIdx, rowOfSlot: rowOfSlot, tokensPerExpertSent: sent, expertRanges: ranges,
      rank: transport.rank, countsReceived: exchangeCounts(sent, ranges))
  }

  private func sort(
    _ topkIdx: TensorView, numExperts: Int, rowOfSlot: HostBuffer
  ) throws(EngineError) -> [Int] {
    let counts = try HostBuffer(shape: [numExperts], dtype: .i32)
    try backend.sortByExpert(
      topkIdx: topkIdx, numExperts: numExperts, rowOfSlot: rowOfSlot.view,
      tokensPerExpert: counts.view)
    return (0..<numExperts).map { unsafe Int(counts.view.load(Int32.self, at: $0)) }
  }

  /// What each rank sends to each of this rank's experts, `[P][e]`.
  private func exchangeCounts(
    _ sent: [Int], _ ranges: [Range<Int>]
  ) throws(EngineError) -> [[Int]] {
    if transport.size == 1 { return [sent] }
    let messages = ranges.map { [Self.routed] + sent[$0].map(Int64.init) }
    let received = try exchangeMessages(messages, ranges)
    if let failed = received.firstIndex(where: { $0.first != Self.routed }) {
      throw EngineError(
        .communication,
        "the tokens of rank \(failed) could not be routed; the error there says why")
    }
    let counts = received.map { $0.dropFirst().map { Int($0) } }
    try checkTotal(counts)
    return counts
  }

  /// A rank whose choices are wrong says so instead of leaving the others to wait.
  private func tellFailure(_ ranges: [Range<Int>]) throws(EngineError) {
    if transport.size == 1 { return }
    let messages = ranges.map { [Self.failed] + Array(repeating: 0, count: $0.count) }
    _ = try exchangeMessages(messages, ranges)
  }

  // The first number of a message.
  private static var routed: Int64 { 1 }
  private static var failed: Int64 { 0 }

  private func checkTotal(_ counts: [[Int]]) throws(EngineError) {
    let limit = Int(Int32.max)
    var total = 0
    for count in counts.joined() {
      guard count >= 0, count <= limit, total + count <= limit else {
        throw EngineError(
          .invalidArgument,
          "rank \(transport.rank) would receive more than \(limit) rows; use fewer tokens a step"
            + " or more ranks")
      }
      total += count
    }
  }

  /// Sends message p to rank p; those of the ranks to this one come back. A message is as long as
  /// its receiver has experts, plus one.
  private func exchangeMessages(
    _ messages: [[Int64]], _ ranges: [Range<Int>]
  ) throws(EngineError) -> [[Int64]] {
    let length = ranges[transport.rank].count + 1
    let received = try transport.exchangeNumbers(
      Array(messages.joined()), sendCounts: messages.map(\.count),
      receiveCounts: Array(repeating: length, count: transport.size),
      step: "exchange of token counts")
    return (0..<transport.size).map { Array(received[$0 * length..<($0 + 1) * length]) }
  }
}
