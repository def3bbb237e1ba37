import AutoEPSystem

/// Sends each copy of a token to the rank that owns its expert, by an all-to-all over a transport, and the
/// results back.
///
/// The counts of rows are the host's: a plan is in host memory, or in memory that the host reads.
public struct AllToAllDispatcher: TokenDispatcher {
  let backend: any ComputeBackend
  let transport: any Transport
  let configuration: ExpertsConfiguration
  let layer: UInt64

  /// A dispatcher over the ranks of a transport, of the layer of this number.
  public init(
    backend: any ComputeBackend, transport: any Transport, configuration: ExpertsConfiguration,
    layer: UInt64
  ) {
    self.backend = backend
    self.transport = transport
    self.configuration = configuration
    self.layer = layer
  }

  /// The experts of this rank.
  public var experts: Range<Int> { experts(of: transport.rank) }

  /// The experts of a rank.
  func experts(of rank: Int) -> Range<Int> {
    expertRange(numExperts: configuration.numExperts, numRanks: transport.size, rank: rank)
  }

  /// Rows that came from other ranks.
  public var receivesRows: Bool { true }

  /// The copies in expert order of this rank, exchanged into the order of their arrival.
  public func dispatch(
    _ x: TensorView, weights: TensorView?, _ plan: DispatchPlan, room: TensorView,
    _ arena: inout Arena
  ) throws(EngineError) -> ExpertRows {
    let splits = try splits(plan)
    try arena.scope { (arena) throws(EngineError) in
      let copies = try arena.take([splits.rowsSent, x.shape[1]], x.dtype)
      try backend.permute(x, rowOfSlot: plan.rowOfSlot, weights: weights, into: copies)
      try exchange(
        copies, splits.sendRows, into: room, splits.receiveRows, step: "dispatch of tokens")
    }
    return ExpertRows(room, plan.placement)
  }

  /// The rows back at their senders, in expert order there, and summed.
  public func combine(
    _ rows: TensorView, weights: TensorView?, _ plan: DispatchPlan, into y: TensorView?,
    dots: SlotDots?, _ arena: inout Arena
  ) throws(EngineError) {
    let splits = try splits(plan)
    try arena.scope { (arena) throws(EngineError) in
      let results = try arena.take([splits.rowsSent, rows.shape[1]], rows.dtype)
      try exchange(
        rows, splits.receiveRows, into: results, splits.sendRows, step: "combine of results")
      try backend.combineSlots(results, weights: weights, plan.rowOfSlot, into: y, dots: dots)
    }
  }

  /// Each slot's number beside its row.
  public func sendValues(
    _ values: TensorView, _ plan: DispatchPlan, into rows: TensorView, _ arena: inout Arena
  ) throws(EngineError) {
    let splits = try splits(plan)
    try arena.scope { (arena) throws(EngineError) in
      let sent = try arena.take([splits.rowsSent, 1], rows.dtype)
      try backend.scatterToRows(values, rowOfSlot: plan.rowOfSlot, into: sent)
      try exchange(
        sent, splits.sendRows, into: rows, splits.receiveRows, step: "dispatch of weights")
    }
  }

  /// One number of each row back at its slot.
  public func sendBack(
    _ partials: TensorView, _ plan: DispatchPlan, into values: TensorView, _ arena: inout Arena
  ) throws(EngineError) {
    let splits = try splits(plan)
    try arena.scope { (arena) throws(EngineError) in
      let sums = try arena.take([partials.shape[0], 1], partials.dtype)
      try backend.sumPartials(partials, into: sums)
      let back = try arena.take([splits.rowsSent, 1], partials.dtype)
      try exchange(
        sums, splits.receiveRows, into: back, splits.sendRows,
        step: "combine of the weights' gradient")
      try backend.gatherFromRows(back, rowOfSlot: plan.rowOfSlot, into: values)
    }
  }

  private func exchange(
    _ send: TensorView, _ sendRows: [Int], into receive: TensorView, _ receiveRows: [Int],
    step: String
  ) throws(EngineError) {
    try transport.exchange(
      RowExchange(
        send: send.storage, sendRows: sendRows, receive: receive.storage, receiveRows: receiveRows,
        rowBytes: send.shape[1] * send.dtype.byteCount, step: step, queue: backend.queue))
  }
}
