import AutoEPSystem

/// The exchange of row counts by which ranks make a plan together.
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

  /// Sends each rank the number of rows that this rank has for each of that rank's experts, and one further number.
  ///
  /// - Parameters:
  ///   - offsets: The first row of each expert among those that this rank sends, then their number: `[E+1]`.
  ///   - extras: The further number for each rank, `[P]`; empty to send none.
  /// - Returns: For each rank, the rows that it sends to each of this rank's experts, then its further number: `[P][e]`
  ///   or `[P][e+1]`.
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

  /// Takes part in `exchange` after this rank has failed to route its tokens, so that the other ranks fail as well
  /// instead of waiting.
  ///
  /// - Parameter hasExtras: Whether the other ranks give `extras`.
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

  /// Sends message p to rank p, and returns the message of each rank to this one. All messages to one rank have the
  /// same length.
  private func exchange(_ messages: [[Int64]]) throws(EngineError) -> [[Int64]] {
    let length = messages[transport.rank].count
    let received = try transport.exchangeNumbers(
      Array(messages.joined()), sendCounts: messages.map(\.count),
      receiveCounts: Array(repeating: length, count: transport.size), step: Self.step)
    return (0..<transport.size).map { Array(received[$0 * length..<($0 + 1) * length]) }
  }
}

extension ComputeBackend {
  /// Adds up the rows that each rank sends to each of this rank's experts, `[P][e]`. Stores the experts' offsets and,
  /// if asked, their row counts, and returns R.
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

  /// The bytes that `prepare` fills for `rows` rows. A backend counts them per token, of K rows each.
  func preparedBytes(
    _ configuration: ExpertsConfiguration, localExperts: Int, rows: Int
  ) -> Int {
    let topK = configuration.topK
    return preparedBytes(configuration, localExperts: localExperts).of((rows + topK - 1) / topK)
  }
}
