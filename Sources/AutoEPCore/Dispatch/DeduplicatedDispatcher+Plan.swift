import AutoEPSystem

extension DeduplicatedDispatcher {
  // The slots of this plan are pairs of a token and a rank.
  private var shape: PlanLayout.Shape {
    let size = transport.size
    return PlanLayout.Shape(
      localExperts: experts.count, topK: size,
      details: .part(byteCount: (configuration.numExperts + 1 + size + 1) * 4)
        + .part(byteCount: size * 4)
        + .part(perItem: size * configuration.topK * 4),
      prepared: ByteCount())
  }

  /// The sizes of a plan's memory.
  public var planBytes: ByteCount { shape.byteCount }

  /// The bytes of both sorts, by expert and by rank, of the rows of the first and of the pairs that the second sorts.
  public func planScratchBytes(numTokens: Int) -> Int {
    let slots = Arena.footprint([numTokens, configuration.topK], .i32)
    let pairs = Arena.footprint([numTokens, transport.size], .i32)
    return slots + pairs
      + backend.sortScratchBytes(numExperts: max(configuration.numExperts, transport.size))
  }

  /// The bytes of the slots of the tokens that arrive, of their sort, and of what products share.
  public func openBytes(_ rows: RowCount) -> Int {
    3 * Arena.footprint([rows.tokens, configuration.topK], .i32)
      + Arena.footprint([experts.count + 1], .i32)
      + backend.sortScratchBytes(numExperts: experts.count)
      + Arena.footprint(
        backend.preparedBytes(configuration, localExperts: experts.count, rows: rows.capacity))
  }

  /// Lists the ranks of each token, and exchanges the counts of tokens and rows.
  public func plan(
    _ topkIdx: TensorView, counts: PlanCounts, in memory: Arena, _ arena: inout Arena
  ) throws(EngineError) -> RowCount {
    let numTokens = topkIdx.shape[0]
    let layout = try PlanLayout(shape, numTokens: numTokens, in: memory)
    let details = try Details(layout.details, self, numTokens: numTokens)
    // Invalidates an older plan in this memory, even if this call fails.
    if let header = layout.header { PlanHeader.erase(header) }
    let (firstRows, sent): ([Int], [Int])
    do throws(EngineError) {
      let rowOfSlot = try arena.take(topkIdx.shape, .i32)
      try backend.sort(
        topkIdx, numExperts: configuration.numExperts,
        into: SlotSort(
          offsets: details.firstRows, rowOfSlot: rowOfSlot, slotOfRow: nil,
          tokensPerExpert: counts.tokensPerExpert), &arena)
      let ranks = try arena.take([numTokens, transport.size], .i32)
      try backend.ranksOfTokens(topkIdx, numExperts: configuration.numExperts, into: ranks)
      try backend.sort(
        ranks, numExperts: transport.size,
        into: SlotSort(
          offsets: details.firstTokens, rowOfSlot: layout.rowOfSlot, slotOfRow: nil,
          tokensPerExpert: nil), &arena)
      try backend.choicesOfRanks(
        topkIdx, numExperts: configuration.numExperts, rowOfSlot: layout.rowOfSlot,
        into: details.choices)
      // NOTE: waits for a device: the one time per layer, because a transport's splits are the host's.
      let offsets = try backend.numbers(of: details.offsets)
      firstRows = offsets.dropLast(transport.size + 1).map { Int($0) }
      sent = differences(offsets.suffix(transport.size + 1))
      // Throws what the device has found, such as an index that is no expert.
      try backend.checkFaults()
    } catch {
      try counting.reportFailure(hasExtras: true)
      throw error
    }
    let received = try counting.exchange(offsets: firstRows, extras: sent)
    let arriving = received.map { $0[experts.count] }
    try backend.store(arriving.map { Int32($0) }, in: details.arriving)
    let rowCount = try backend.note(
      received, experts: experts.count, offsets: layout.expertOffsets, counts.rowsPerExpert)
    let splits = RowSplits(sendRows: sent, receiveRows: arriving, rows: rowCount)
    let rows = RowCount.exact(
      rowCount, tokens: splits.received, plan: notes.keep(splits, of: memory))
    if let header = layout.header {
      PlanHeader(
        layer: layer, numTokens: numTokens, rows: rows.capacity, arrivingTokens: rows.tokens
      ).write(to: header)
    }
    return rows
  }

  /// Opens the plan in `memory`, and sorts the slots of the tokens that arrive. Collective: each rank sends the choices
  /// of its tokens.
  public func open(
    _ memory: Arena, numTokens: Int, rowCount: RowCount, _ arena: inout Arena
  ) throws(EngineError) -> DispatchPlan {
    let layout = try PlanLayout(shape, numTokens: numTokens, in: memory)
    if let header = layout.header {
      let made = try PlanHeader(reading: header, layer: layer, numTokens: numTokens)
      try made.check(rowCount)
    }
    let details = try Details(layout.details, self, numTokens: numTokens)
    let splits =
      if let noted = notes.splits(of: rowCount.plan) {
        noted
      } else {
        try readSplits(details, layout)
      }
    try check(splits, rowCount)
    let slots = try sortArriving(details.choices, splits, rowCount, &arena)
    let prepared = try arena.take(
      byteCount: backend.preparedBytes(
        configuration, localExperts: experts.count, rows: rowCount.capacity))
    let groups = RowGroups(.offsets(layout.expertOffsets), prepared: prepared)
    try backend.prepare(groups, configuration, rowsCapacity: rowCount.capacity)
    return DispatchPlan(
      numTokens: numTokens, topK: configuration.topK, rowCount: rowCount, groups: groups,
      rowOfSlot: layout.rowOfSlot, placement: .inOrder, details: layout.details, route: nil,
      arrived: ArrivedTokens(splits: splits, slots: slots))
  }

  /// The tokens that a dispatch of the plan moves, each counted once per rank.
  public func traffic(_ plan: DispatchPlan) -> DispatchTraffic {
    guard let splits = plan.arrived?.splits else {
      return DispatchTraffic(sent: 0, sentRemote: 0, received: 0, receivedRemote: 0)
    }
    return DispatchTraffic(splits, rank: transport.rank)
  }

  /// Exchanges the choices, and sorts the slots of the tokens that arrive by expert.
  private func sortArriving(
    _ choices: TensorView, _ splits: RowSplits, _ rows: RowCount, _ arena: inout Arena
  ) throws(EngineError) -> SlotMap {
    let shape = [rows.tokens, configuration.topK]
    let rowOfSlot = try arena.take(shape, .i32)
    let slotOfRow = try arena.take(shape, .i32)
    try arena.scope { (arena) throws(EngineError) in
      let arrived = try arena.take(shape, .i32)
      try exchange(
        choices, splits.sendRows, into: arrived, splits.receiveRows, step: "dispatch of choices")
      let offsets = try arena.take([experts.count + 1], .i32)
      try backend.sort(
        arrived, numExperts: experts.count,
        into: SlotSort(
          offsets: offsets, rowOfSlot: rowOfSlot, slotOfRow: slotOfRow, tokensPerExpert: nil),
        &arena)
    }
    return SlotMap(
      rowOfSlot: rowOfSlot,
      slotOfRow: TensorView(slotOfRow.storage, shape: [rows.capacity], dtype: .i32))
  }
}

extension DeduplicatedDispatcher {
  /// The dispatcher's part of a plan.
  private struct Details {
    /// `firstRows` and `firstTokens` in one tensor, so that one copy to the host reads both.
    let offsets: TensorView
    /// First slot of each expert among those of this rank, and their number: `[E+1]` i32.
    let firstRows: TensorView
    /// First token of each rank among those that this one sends, and their number: `[P+1]` i32.
    let firstTokens: TensorView
    /// Tokens from each rank, `[P]` i32.
    let arriving: TensorView
    /// The experts of each token that is sent, as its receiver numbers them; -1 for those of other ranks: `[T·P,K]`
    /// i32, of which the first rows are used.
    let choices: TensorView

    init(
      _ memory: Arena, _ dispatcher: DeduplicatedDispatcher, numTokens: Int
    ) throws(EngineError) {
      var memory = memory
      let size = dispatcher.transport.size
      let experts = dispatcher.configuration.numExperts
      offsets = try memory.take([experts + 1 + size + 1], .i32)
      firstRows = TensorView(offsets.storage, shape: [experts + 1], dtype: .i32)
      firstTokens = TensorView(
        offsets.storage.advanced(by: (experts + 1) * DataType.i32.byteCount), shape: [size + 1],
        dtype: .i32)
      arriving = try memory.take([size], .i32)
      choices = try memory.take([numTokens * size, dispatcher.configuration.topK], .i32)
    }
  }

  /// Reads splits that are not noted from the plan.
  private func readSplits(
    _ details: Details, _ layout: PlanLayout
  ) throws(EngineError) -> RowSplits {
    // NOTE: waits for a device; only for a plan without a number, or whose splits are no longer noted.
    RowSplits(
      sendRows: differences(try backend.numbers(of: details.firstTokens)[...]),
      receiveRows: try backend.numbers(of: details.arriving).map { Int($0) },
      rows: try backend.numbers(of: layout.expertOffsets).last.map { Int($0) } ?? 0)
  }

  private func differences(_ offsets: ArraySlice<Int32>) -> [Int] {
    zip(offsets.dropFirst(), offsets).map { Int($0) - Int($1) }
  }

  /// Throws if the splits do not fit the counts, because the plan was overwritten or the counts are another plan's.
  private func check(_ splits: RowSplits, _ rows: RowCount) throws(EngineError) {
    guard splits.sendRows.allSatisfy({ $0 >= 0 }), splits.receiveRows.allSatisfy({ $0 >= 0 }),
      splits.received == rows.tokens, splits.rows == rows.capacity
    else {
      throw EngineError(
        .invalidArgument,
        "plan has \(splits.rows) rows of \(splits.received) tokens that arrive, and rows_capacity is"
          + " \(rows.capacity), arriving_tokens \(rows.tokens); expected the plan's own bytes, as they were"
          + " made, and the numbers of its info")
    }
  }
}
