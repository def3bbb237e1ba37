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

  /// The order in which rows arrive, and what products share: both grow with the rows, of which a plan's memory knows
  /// nothing yet.
  public func openBytes(_ rows: RowCount) -> Int {
    Arena.footprint([rows.capacity], .i32)
      + Arena.footprint(
        backend.preparedBytes(configuration, localExperts: experts.count, rows: rows.capacity))
  }

  /// Sorts, and exchanges the counts.
  public func plan(
    _ topkIdx: TensorView, counts: PlanCounts, in memory: Arena, _ arena: inout Arena
  ) throws(EngineError) -> RowCount {
    let layout = try PlanLayout(shape, numTokens: topkIdx.shape[0], in: memory)
    let details = try Details(layout.details, self)
    // Invalidates an older plan in this memory, even if this call fails.
    if let header = layout.header { PlanHeader.erase(header) }
    let sentOffsets: [Int]
    do throws(EngineError) {
      try backend.sort(
        topkIdx, numExperts: configuration.numExperts,
        into: SlotSort(
          offsets: details.sentOffsets, rowOfSlot: layout.rowOfSlot, slotOfRow: nil,
          tokensPerExpert: counts.tokensPerExpert), &arena)
      // NOTE: waits for a device: the one time per layer, because a transport's splits are the host's.
      sentOffsets = try backend.numbers(of: details.sentOffsets).map { Int($0) }
      // Throws what the device has found, such as an index that is no expert.
      try backend.checkFaults()
    } catch {
      try counting.reportFailure()
      throw error
    }
    let received = try counting.exchange(offsets: sentOffsets)
    let rows = try note(received, in: details, layout, counts.rowsPerExpert)
    let number = notes.keep(splits(sentOffsets, received), of: memory)
    if let header = layout.header {
      PlanHeader(layer: layer, numTokens: topkIdx.shape[0], rows: rows, arrivingTokens: 0).write(
        to: header)
    }
    return .exact(rows, plan: number)
  }

  /// Opens the plan in `memory`, and computes the order in which rows arrive.
  public func open(
    _ memory: Arena, numTokens: Int, rowCount: RowCount, _ arena: inout Arena
  ) throws(EngineError) -> DispatchPlan {
    let layout = try PlanLayout(shape, numTokens: numTokens, in: memory)
    if let header = layout.header {
      let made = try PlanHeader(reading: header, layer: layer, numTokens: numTokens)
      try made.check(rowCount)
    }
    let details = try Details(layout.details, self)
    let splits =
      if let noted = notes.splits(of: rowCount.plan) { noted } else { try readSplits(details) }
    try check(splits, rowCount)
    let arrivals = try arena.take([rowCount.capacity], .i32)
    try backend.arrivalPlaces(received: details.received, into: arrivals)
    let prepared = try arena.take(
      byteCount: backend.preparedBytes(
        configuration, localExperts: experts.count, rows: rowCount.capacity))
    let groups = RowGroups(.offsets(layout.expertOffsets), prepared: prepared)
    try backend.prepare(groups, configuration, rowsCapacity: rowCount.capacity)
    return DispatchPlan(
      numTokens: numTokens, topK: configuration.topK, rowCount: rowCount, groups: groups,
      rowOfSlot: layout.rowOfSlot, placement: keepsArrivals ? .indexed(arrivals) : .inOrder,
      details: layout.details, route: RowRoute(splits: splits, arrivals: arrivals), arrived: nil)
  }

  /// What a dispatch of the plan moves.
  public func traffic(_ plan: DispatchPlan) -> DispatchTraffic {
    guard let splits = plan.route?.splits else {
      return DispatchTraffic(sent: 0, sentRemote: 0, received: 0, receivedRemote: 0)
    }
    return DispatchTraffic(splits, rank: transport.rank)
  }
}

extension AllToAllDispatcher {
  /// The dispatcher's part of a plan.
  private struct Details {
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

  /// Stores the rows that each rank sends to each of this rank's experts; returns R.
  private func note(
    _ received: [[Int]], in details: Details, _ layout: PlanLayout, _ rowsPerExpert: TensorView?
  ) throws(EngineError) -> Int {
    try backend.store(received.joined().map { Int32($0) }, in: details.received)
    return try backend.note(
      received, experts: experts.count, offsets: layout.expertOffsets, rowsPerExpert)
  }

  /// Reads splits that are not noted from the plan.
  private func readSplits(_ details: Details) throws(EngineError) -> RowSplits {
    // NOTE: waits for a device; only for a plan without a number, or whose splits are no longer noted.
    let sentOffsets = try backend.numbers(of: details.sentOffsets).map { Int($0) }
    let received = try backend.numbers(of: details.received).map { Int($0) }
    let e = experts.count
    return splits(
      sentOffsets, (0..<transport.size).map { Array(received[$0 * e..<($0 + 1) * e]) })
  }

  private func splits(_ sentOffsets: [Int], _ received: [[Int]]) -> RowSplits {
    RowSplits(
      sendRows: (0..<transport.size).map { rank in
        let experts = counting.experts(of: rank)
        return sentOffsets[experts.upperBound] - sentOffsets[experts.lowerBound]
      },
      receiveRows: received.map { counts in
        counts.contains { $0 < 0 } ? -1 : counts.reduce(0, +)
      })
  }

  /// Throws if the splits do not fit the counts, because the plan was overwritten or the counts are another plan's.
  private func check(_ splits: RowSplits, _ rowCount: RowCount) throws(EngineError) {
    guard splits.sendRows.allSatisfy({ $0 >= 0 }), splits.receiveRows.allSatisfy({ $0 >= 0 }),
      splits.received == rowCount.capacity
    else {
      throw EngineError(
        .invalidArgument,
        "plan has \(splits.received) rows, and rows_capacity is \(rowCount.capacity); expected the plan's own"
          + " bytes, as they were made, and the rows of its info")
    }
  }
}
