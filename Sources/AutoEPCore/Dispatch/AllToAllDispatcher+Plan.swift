import AutoEPSystem

extension AllToAllDispatcher {
  private var shape: PlanLayout.Shape {
    PlanLayout.Shape(
      localExperts: experts.count, topK: configuration.topK,
      details: .part(byteCount: (configuration.numExperts + 1) * 4)
        + .part(byteCount: transport.size * experts.count * 4),
      prepared: ByteCount())
  }

  /// The sizes of a plan's memory.
  public var planBytes: ByteCount { shape.byteCount }

  /// What sorting takes.
  public func planScratchBytes(numTokens: Int) -> Int {
    backend.sortScratchBytes(numExperts: configuration.numExperts)
  }

  /// The order in which rows arrive.
  public func openBytes(rowsCapacity: Int) -> Int { Arena.footprint([rowsCapacity], .i32) }

  /// The copies to send, or the results that come back; or one number per row, on both sides.
  public func exchangeBytes(numTokens: Int, rowsCapacity: Int) -> Int {
    let slots = numTokens * configuration.topK
    let sums = configuration.dtype.sumType
    return max(
      Arena.footprint([slots, configuration.hiddenSize], configuration.dtype),
      Arena.footprint([slots], sums) + Arena.footprint([rowsCapacity], sums))
  }

  /// Sorts, and exchanges the counts.
  public func plan(
    _ topkIdx: TensorView, counts: PlanCounts, in memory: Arena, _ arena: inout Arena
  ) throws(EngineError) -> RowCount {
    let layout = try PlanLayout(shape, numTokens: topkIdx.shape[0], in: memory)
    let details = try Details(layout.details, self)
    // A plan that was in this memory ends here, also where this one fails.
    if let header = layout.header { PlanHeader.erase(header) }
    do throws(EngineError) {
      try backend.sort(
        topkIdx, numExperts: configuration.numExperts,
        into: SlotSort(
          offsets: details.sentOffsets, rowOfSlot: layout.rowOfSlot, slotOfRow: nil,
          tokensPerExpert: counts.tokensPerExpert), &arena)
    } catch {
      try reportFailure()
      throw error
    }
    let received = try exchangeCounts(details.sentOffsets)
    let rows = note(received, in: details, offsets: layout.expertOffsets)
    if let rowsPerExpert = counts.rowsPerExpert {
      for expert in experts.indices {
        let place = expert - experts.lowerBound
        unsafe rowsPerExpert.store(
          Int32(received.reduce(0) { $0 + $1[place] }), at: place)
      }
    }
    if let header = layout.header {
      PlanHeader(layer: layer, numTokens: topkIdx.shape[0], rows: rows).write(to: header)
    }
    return .exact(rows)
  }

  /// The plan in `memory`, with the order in which rows arrive.
  public func open(
    _ memory: Arena, numTokens: Int, rowCount: RowCount, _ arena: inout Arena
  ) throws(EngineError) -> DispatchPlan {
    let layout = try PlanLayout(shape, numTokens: numTokens, in: memory)
    if let header = layout.header {
      let made = try PlanHeader(reading: header, layer: layer, numTokens: numTokens)
      try made.check(rowCount)
    }
    let arrivals = try arena.take([rowCount.capacity], .i32)
    let details = try Details(layout.details, self)
    try fill(arrivals, Splits(details, self, rows: rowCount.capacity))
    return DispatchPlan(
      numTokens: numTokens, topK: configuration.topK, rowCount: rowCount,
      groups: RowGroups(.offsets(layout.expertOffsets)), rowOfSlot: layout.rowOfSlot,
      placement: .indexed(arrivals), details: layout.details)
  }

  /// What a dispatch of the plan moves.
  public func traffic(_ plan: DispatchPlan) -> DispatchTraffic {
    guard let splits = try? splits(plan) else {
      return DispatchTraffic(sent: 0, sentRemote: 0, received: 0, receivedRemote: 0)
    }
    let (sent, received) = (splits.rowsSent, plan.rowsCapacity)
    return DispatchTraffic(
      sent: sent, sentRemote: sent - splits.sendRows[transport.rank], received: received,
      receivedRemote: received - splits.receiveRows[transport.rank])
  }

  func splits(_ plan: DispatchPlan) throws(EngineError) -> Splits {
    try Splits(Details(plan.details, self), self, rows: plan.rowsCapacity)
  }
}

extension AllToAllDispatcher {
  /// The dispatcher's part of a plan.
  struct Details {
    /// First row of each expert among those that this rank sends, and their number: `[E+1]` i32.
    let sentOffsets: TensorView
    /// What each rank sends to each of this rank's experts: `[P,e]` i32.
    let received: TensorView

    init(_ memory: Arena, _ dispatcher: AllToAllDispatcher) throws(EngineError) {
      var memory = memory
      let transport = dispatcher.transport
      sentOffsets = try memory.take([dispatcher.configuration.numExperts + 1], .i32)
      received = try memory.take(
        [transport.size, dispatcher.experts.count], .i32)
    }
  }

  /// How many rows go where.
  struct Splits {
    /// Rows to each rank, `[P]`.
    let sendRows: [Int]
    /// Rows from each rank, `[P]`.
    let receiveRows: [Int]
    /// Rows that each rank sends to each of this rank's experts, `[P][e]`.
    let counts: [[Int]]

    var rowsSent: Int { sendRows.reduce(0, +) }

    /// Reads them; throws where they do not fit, because somebody wrote to the plan.
    init(_ details: Details, _ dispatcher: AllToAllDispatcher, rows: Int) throws(EngineError) {
      let size = dispatcher.transport.size
      let localExperts = details.received.shape[1]
      sendRows = (0..<size).map { rank in
        let experts = dispatcher.experts(of: rank)
        return dispatcher.offset(details.sentOffsets, experts.upperBound)
          - dispatcher.offset(details.sentOffsets, experts.lowerBound)
      }
      counts = (0..<size).map { rank in
        (0..<localExperts).map { expert in
          unsafe Int(details.received.load(Int32.self, at: rank * localExperts + expert))
        }
      }
      receiveRows = counts.map { $0.reduce(0, +) }
      guard sendRows.allSatisfy({ $0 >= 0 }), counts.joined().allSatisfy({ $0 >= 0 }),
        receiveRows.reduce(0, +) == rows
      else {
        throw EngineError(
          .invalidArgument, "plan was changed after it was made; expected its own bytes")
      }
    }
  }

  private func offset(_ offsets: TensorView, _ expert: Int) -> Int {
    unsafe Int(offsets.load(Int32.self, at: expert))
  }

  /// Where each row of this rank's experts stands among those that arrive. Expert order is by expert, then source
  /// rank; rows arrive by source rank, then expert.
  private func fill(_ arrivals: TensorView, _ splits: Splits) {
    var nextOfSource: [Int] = []
    var arrived = 0
    for rows in splits.receiveRows {
      nextOfSource.append(arrived)
      arrived += rows
    }
    var row = 0
    for expert in 0..<(splits.counts.first?.count ?? 0) {
      for source in splits.counts.indices {
        let next = nextOfSource[source]
        let count = splits.counts[source][expert]
        for offset in 0..<count { unsafe arrivals.store(Int32(next + offset), at: row + offset) }
        nextOfSource[source] += count
        row += count
      }
    }
  }

  /// Notes what arrives for each expert; returns R.
  private func note(_ received: [[Int]], in details: Details, offsets: TensorView) -> Int {
    let localExperts = details.received.shape[1]
    for (rank, counts) in received.enumerated() {
      for (expert, count) in counts.enumerated() {
        unsafe details.received.store(Int32(count), at: rank * localExperts + expert)
      }
    }
    var rows = 0
    for expert in 0..<localExperts {
      unsafe offsets.store(Int32(rows), at: expert)
      rows += received.reduce(0) { $0 + $1[expert] }
    }
    unsafe offsets.store(Int32(rows), at: localExperts)
    return rows
  }
}

extension AllToAllDispatcher {
  // The first number of a message.
  private static var routed: Int64 { 1 }
  private static var failed: Int64 { 0 }

  /// What each rank sends to each of this rank's experts, `[P][e]`.
  private func exchangeCounts(_ sentOffsets: TensorView) throws(EngineError) -> [[Int]] {
    let messages = (0..<transport.size).map { rank in
      [Self.routed]
        + experts(of: rank).map { Int64(offset(sentOffsets, $0 + 1) - offset(sentOffsets, $0)) }
    }
    let received = try exchangeMessages(messages)
    if let failed = received.firstIndex(where: { $0.first != Self.routed }) {
      throw EngineError(
        .communication,
        "the tokens of rank \(failed) could not be routed; the error there says why",
        step: Self.countsStep, ranks: [failed])
    }
    let counts = received.map { $0.dropFirst().map { Int($0) } }
    try checkTotal(counts)
    return counts
  }

  /// A rank whose choices are wrong says so instead of leaving the others to wait.
  private func reportFailure() throws(EngineError) {
    _ = try exchangeMessages(
      (0..<transport.size).map { [Self.failed] + Array(repeating: 0, count: experts(of: $0).count) }
    )
  }

  private func checkTotal(_ counts: [[Int]]) throws(EngineError) {
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

  private static var countsStep: String { "exchange of token counts" }

  /// Sends message p to rank p, and returns those of the ranks to this one. A message is as long as its receiver
  /// has experts, plus one.
  private func exchangeMessages(_ messages: [[Int64]]) throws(EngineError) -> [[Int64]] {
    let length = experts.count + 1
    let received = try transport.exchangeNumbers(
      Array(messages.joined()), sendCounts: messages.map(\.count),
      receiveCounts: Array(repeating: length, count: transport.size), step: Self.countsStep)
    return (0..<transport.size).map { Array(received[$0 * length..<($0 + 1) * length]) }
  }
}
