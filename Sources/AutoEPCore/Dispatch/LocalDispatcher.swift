import AutoEPSystem

/// The dispatcher of a single rank, which has all experts: they read tokens from x directly, and no row is sent.
public struct LocalDispatcher: TokenDispatcher {
  private let backend: any ComputeBackend
  private let layer: UInt64
  private let configuration: ExpertsConfiguration

  /// Makes the dispatcher of the layer with number `layer`.
  public init(
    backend: any ComputeBackend, configuration: ExpertsConfiguration, layer: UInt64
  ) {
    self.backend = backend
    self.configuration = configuration
    self.layer = layer
  }

  /// All experts.
  public var experts: Range<Int> { 0..<configuration.numExperts }

  private var shape: PlanLayout.Shape {
    PlanLayout.Shape(
      localExperts: configuration.numExperts, topK: configuration.topK,
      details: .part(perItem: configuration.topK * DataType.i32.byteCount),
      prepared: backend.preparedBytes(configuration, localExperts: configuration.numExperts))
  }

  /// The bytes of a plan.
  public var planBytes: ByteCount { shape.byteCount }

  /// The bytes that sorting needs.
  public func planScratchBytes(numTokens: Int) -> Int {
    backend.sortScratchBytes(numExperts: configuration.numExperts)
  }

  /// None.
  public func openBytes(_ rows: RowCount) -> Int { 0 }

  /// None.
  public func exchangeBytes(numTokens: Int, _ rows: RowCount) -> Int { 0 }

  /// Nothing: rows are copied from x again when they are needed.
  public var delivery: Delivery { .nothing }

  /// Sorts the slots by expert.
  public func plan(
    _ topkIdx: TensorView, counts: PlanCounts, in memory: Arena, _ arena: inout Arena
  ) throws(EngineError) -> RowCount {
    guard counts.tokensPerExpert == nil || counts.rowsPerExpert == nil else {
      throw EngineError(
        .invalidArgument,
        "rows_per_expert is given beside tokens_per_expert; expected one of them, for a rank alone both are"
          + " the same")
    }
    let layout = try PlanLayout(shape, numTokens: topkIdx.shape[0], in: memory)
    // Invalidates an older plan in this memory, even if this call fails.
    if let header = layout.header { PlanHeader.erase(header) }
    try backend.sort(
      topkIdx, numExperts: configuration.numExperts,
      into: SlotSort(
        offsets: layout.expertOffsets, rowOfSlot: layout.rowOfSlot,
        slotOfRow: try slotOfRow(layout, topkIdx.shape[0]),
        tokensPerExpert: counts.tokensPerExpert ?? counts.rowsPerExpert), &arena)
    try backend.prepare(groups(layout), configuration, rowsCapacity: topkIdx.elementCount)
    let slots = topkIdx.elementCount
    if let header = layout.header {
      PlanHeader(layer: layer, numTokens: topkIdx.shape[0], rows: slots, arrivingTokens: 0).write(
        to: header)
    }
    return RowCount(capacity: slots, exact: groups(layout).rowCount)
  }

  /// Opens the plan in `memory`.
  public func open(
    _ memory: Arena, numTokens: Int, rowCount: RowCount, _ arena: inout Arena
  ) throws(EngineError) -> DispatchPlan {
    let layout = try PlanLayout(shape, numTokens: numTokens, in: memory)
    if let header = layout.header {
      let made = try PlanHeader(reading: header, layer: layer, numTokens: numTokens)
      try made.check(rowCount)
    }
    return DispatchPlan(
      numTokens: numTokens, topK: configuration.topK, rowCount: rowCount, groups: groups(layout),
      rowOfSlot: layout.rowOfSlot, placement: .inOrder, details: layout.details,
      route: nil, arrived: nil)
  }

  /// Returns the tokens in place, or weighted copies of them.
  public func dispatch(
    _ x: TensorView, weights: TensorView?, _ plan: DispatchPlan, room: TensorView,
    _ arena: inout Arena
  ) throws(EngineError) -> ExpertRows {
    guard let weights else {
      var details = plan.details
      let slotOfRow = try details.take([plan.rowsCapacity], .i32)
      return ExpertRows(x, .tokens(SlotMap(rowOfSlot: plan.rowOfSlot, slotOfRow: slotOfRow)))
    }
    try backend.permute(x, rowOfSlot: plan.rowOfSlot, weights: weights, into: room)
    return ExpertRows(room)
  }

  /// Sums the rows of each token.
  public func combine(
    _ rows: TensorView, weights: TensorView?, _ plan: DispatchPlan, into y: TensorView?,
    dots: SlotDots?, _ arena: inout Arena
  ) throws(EngineError) {
    try backend.combineSlots(rows, weights: weights, plan.rowOfSlot, into: y, dots: dots)
  }

  /// Scatters the slots' numbers to their rows.
  public func sendValues(
    _ values: TensorView, _ plan: DispatchPlan, into rows: TensorView, _ arena: inout Arena
  ) throws(EngineError) {
    try backend.scatterToRows(values, rowOfSlot: plan.rowOfSlot, into: rows)
  }

  /// Gathers the rows' sums to their slots.
  public func sendBack(
    _ partials: TensorView, _ plan: DispatchPlan, into values: TensorView, _ arena: inout Arena
  ) throws(EngineError) {
    try backend.gatherFromRows(partials, rowOfSlot: plan.rowOfSlot, into: values)
  }

  /// All rows stay on this rank.
  public func traffic(_ plan: DispatchPlan) -> DispatchTraffic {
    let rows = plan.rowsInUse ?? plan.rowsCapacity
    return DispatchTraffic(sent: rows, sentRemote: 0, received: rows, receivedRemote: 0)
  }

  private func groups(_ layout: PlanLayout) -> RowGroups {
    RowGroups(.offsets(layout.expertOffsets), prepared: layout.prepared)
  }

  private func slotOfRow(_ layout: PlanLayout, _ numTokens: Int) throws(EngineError) -> TensorView {
    var details = layout.details
    return try details.take([numTokens * configuration.topK], .i32)
  }
}
