import AutoEPSystem

/// The exchange of row counts with which ranks make a plan together.
struct CountExchange {
  private let transport: any Transport
  private let numExperts: Int

  init(over transport: any Transport, numExperts: Int) {
    self.transport = transport
    self.numExperts = numExperts
  }

  /// The experts of this rank.
  var experts: Range<Int> { experts(of: transport.rank) }

  /// The experts of a rank.
  func experts(of rank: Int) -> Range<Int> {
    expertRange(numExperts: numExperts, numRanks: transport.size, rank: rank)
  }

  /// Tells each rank the rows that this one has for each of its experts, and a number of the caller's.
  ///
  /// - Parameters:
  ///   - offsets: The first row of each expert among those that this rank sends, then their number: `[E+1]`.
  ///   - extras: The number for each rank, `[P]`; none if empty.
  /// - Returns: What each rank sends to each of this rank's experts, then its number: `[P][e]` or `[P][e+1]`.
  func exchange(offsets: [Int], extras: [Int] = []) throws(EngineError) -> [[Int]] {
    let messages = (0..<transport.size).map { rank in
      [Self.routed] + experts(of: rank).map { Int64(offsets[$0 + 1] - offsets[$0]) }
        + (extras.isEmpty ? [] : [Int64(extras[rank])])
    }
    let received = try exchange(messages)
    if let failed = received.firstIndex(where: { $0.first != Self.routed }) {
      throw EngineError(
        .communication,
        "the tokens of rank \(failed) could not be routed; the error there says why",
        step: Self.step, ranks: [failed])
    }
    let counts = received.map { $0.dropFirst().map { Int($0) } }
    try checkTotal(counts.map { $0.prefix(experts.count) })
    return counts
  }

  /// Tells the other ranks, which would wait otherwise, that the choices of this one are wrong.
  func reportFailure(hasExtras: Bool = false) throws(EngineError) {
    _ = try exchange(
      (0..<transport.size).map { rank in
        [Self.failed] + Array(repeating: 0, count: experts(of: rank).count + (hasExtras ? 1 : 0))
      })
  }

  // The first number of a message.
  private static let routed: Int64 = 1
  private static let failed: Int64 = 0
  private static let step = "exchange of token counts"

  private func checkTotal(_ counts: [ArraySlice<Int>]) throws(EngineError) {
    let limit = Int(Int32.max)
    var total = 0
    for count in counts.joined() {
      guard count >= 0, count <= limit, total + count <= limit else {
        throw EngineError(
          .invalidArgument,
          "rank \(transport.rank) would receive more than \(limit) rows; use fewer tokens per step"
            + " or more ranks")
      }
      total += count
    }
  }

  /// Sends message p to rank p, and returns those of the ranks to this one. All messages to a rank have one length.
  private func exchange(_ messages: [[Int64]]) throws(EngineError) -> [[Int64]] {
    let length = messages[transport.rank].count
    let received = try transport.exchangeNumbers(
      Array(messages.joined()), sendCounts: messages.map(\.count),
      receiveCounts: Array(repeating: length, count: transport.size), step: Self.step)
    return (0..<transport.size).map { Array(received[$0 * length..<($0 + 1) * length]) }
  }
}

extension ComputeBackend {
  /// Writes down the rows that arrive for each expert, given those from each rank, `[P][e]`; returns R.
  func note(
    _ received: [[Int]], experts: Int, offsets: TensorView, _ rowsPerExpert: TensorView?
  ) throws(EngineError) -> Int {
    let counts = (0..<experts).map { expert in received.reduce(0) { $0 + $1[expert] } }
    var firstRows = [0]
    for count in counts { firstRows.append(firstRows[firstRows.count - 1] + count) }
    try store(firstRows.map { Int32($0) }, in: offsets)
    if let rowsPerExpert { try store(counts.map { Int32($0) }, in: rowsPerExpert) }
    return firstRows[firstRows.count - 1]
  }

  /// The bytes of what products share for so many rows, which `preparedBytes` counts per token of K rows.
  func preparedBytes(
    _ configuration: ExpertsConfiguration, localExperts: Int, rows: Int
  ) -> Int {
    let topK = configuration.topK
    return preparedBytes(configuration, localExperts: localExperts).of((rows + topK - 1) / topK)
  }
}
