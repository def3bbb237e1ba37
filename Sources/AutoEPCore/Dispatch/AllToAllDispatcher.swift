import AutoEPSystem

/// Sends each copy of a token to the rank that owns its expert, by an all-to-all over a transport, and the
/// results back.
///
/// Rows arrive by source rank. A backend whose products read them there gets them as they are; for another one they are
/// copied into expert order, and back before the results leave.
public struct AllToAllDispatcher: TokenDispatcher {
  let backend: any ComputeBackend
  let transport: any Transport
  let configuration: ExpertsConfiguration
  let layer: UInt64
  let notes: SplitNotes

  /// A dispatcher over the ranks of a transport, of the layer of this number; `notes` are those of the layer.
  public init(
    backend: any ComputeBackend, transport: any Transport, configuration: ExpertsConfiguration,
    layer: UInt64, notes: SplitNotes = SplitNotes()
  ) {
    self.backend = backend
    self.transport = transport
    self.configuration = configuration
    self.layer = layer
    self.notes = notes
  }

  /// The experts of this rank.
  public var experts: Range<Int> { counting.experts }

  /// Rows from all ranks.
  public var delivery: Delivery { .rows }

  var counting: CountExchange {
    CountExchange(over: transport, numExperts: configuration.numExperts)
  }

  /// Whether the experts read and write rows in the order of their arrival.
  var keepsArrivals: Bool { backend.readsPlacedRows }

  /// The copies to send, or the results that come back; or one number per row, on both sides. Besides, what arrives or
  /// leaves, where the experts have it in another order.
  public func exchangeBytes(numTokens: Int, _ rows: RowCount) -> Int {
    let rowsCapacity = rows.capacity
    let slots = numTokens * configuration.topK
    let (width, dtype, sums) = (
      configuration.hiddenSize, configuration.dtype, configuration.dtype.sumType
    )
    let arrived = keepsArrivals ? 0 : Arena.footprint([rowsCapacity, width], dtype)
    let numbers = keepsArrivals ? 0 : Arena.footprint([rowsCapacity], sums)
    return max(
      Arena.footprint([slots, width], dtype) + arrived,
      Arena.footprint([slots], sums) + Arena.footprint([rowsCapacity], sums) + numbers)
  }

  /// The copies in expert order of this rank, exchanged.
  public func dispatch(
    _ x: TensorView, weights: TensorView?, _ plan: DispatchPlan, room: TensorView,
    _ arena: inout Arena
  ) throws(EngineError) -> ExpertRows {
    let route = try route(of: plan)
    try arena.scope { (arena) throws(EngineError) in
      let copies = try arena.take([route.splits.sent, x.shape[1]], x.dtype)
      try backend.permute(x, rowOfSlot: plan.rowOfSlot, weights: weights, into: copies)
      try receive(room, route, &arena) { (arrived) throws(EngineError) in
        try exchange(
          copies, route.splits.sendRows, into: arrived, route.splits.receiveRows,
          step: "dispatch of tokens")
      } inOrder: { (arrived, places) throws(EngineError) in
        try backend.unpermute(arrived, rowOfSlot: places, weights: nil, into: room)
      }
    }
    return ExpertRows(room, plan.placement)
  }

  /// The rows back at their senders, in expert order there, and summed.
  public func combine(
    _ rows: TensorView, weights: TensorView?, _ plan: DispatchPlan, into y: TensorView?,
    dots: SlotDots?, _ arena: inout Arena
  ) throws(EngineError) {
    let route = try route(of: plan)
    try arena.scope { (arena) throws(EngineError) in
      let results = try arena.take([route.splits.sent, rows.shape[1]], rows.dtype)
      let leaving = try leave(rows, route, &arena) { (places, leaving) throws(EngineError) in
        try backend.permute(rows, rowOfSlot: places, weights: nil, into: leaving)
      }
      try exchange(
        leaving, route.splits.receiveRows, into: results, route.splits.sendRows,
        step: "combine of results")
      try backend.combineSlots(results, weights: weights, plan.rowOfSlot, into: y, dots: dots)
    }
  }

  /// Each slot's number beside its row.
  public func sendValues(
    _ values: TensorView, _ plan: DispatchPlan, into rows: TensorView, _ arena: inout Arena
  ) throws(EngineError) {
    let route = try route(of: plan)
    try arena.scope { (arena) throws(EngineError) in
      let sent = try arena.take([route.splits.sent, 1], rows.dtype)
      try backend.scatterToRows(values, rowOfSlot: plan.rowOfSlot, into: sent)
      try receive(rows, route, &arena) { (arrived) throws(EngineError) in
        try exchange(
          sent, route.splits.sendRows, into: arrived, route.splits.receiveRows,
          step: "dispatch of weights")
      } inOrder: { (arrived, places) throws(EngineError) in
        try backend.gatherFromRows(arrived, rowOfSlot: places, into: rows)
      }
    }
  }

  /// One number of each row back at its slot.
  public func sendBack(
    _ partials: TensorView, _ plan: DispatchPlan, into values: TensorView, _ arena: inout Arena
  ) throws(EngineError) {
    let route = try route(of: plan)
    try arena.scope { (arena) throws(EngineError) in
      let sums = try arena.take([partials.shape[0], 1], partials.dtype)
      try backend.sumPartials(partials, into: sums)
      let leaving = try leave(sums, route, &arena) { (places, leaving) throws(EngineError) in
        try backend.scatterToRows(sums, rowOfSlot: places, into: leaving)
      }
      let back = try arena.take([route.splits.sent, 1], partials.dtype)
      try exchange(
        leaving, route.splits.receiveRows, into: back, route.splits.sendRows,
        step: "combine of the weights' gradient")
      try backend.gatherFromRows(back, rowOfSlot: plan.rowOfSlot, into: values)
    }
  }

  private func route(of plan: DispatchPlan) throws(EngineError) -> RowRoute {
    guard let route = plan.route else {
      throw EngineError(.internal, "the plan of a rank alone was given to a dispatcher of several")
    }
    return route
  }

  /// Exchanges rows into `rows`, as they arrive or, by way of memory of the arena, in expert order.
  private func receive(
    _ rows: TensorView, _ route: RowRoute, _ arena: inout Arena,
    exchange: (TensorView) throws(EngineError) -> Void,
    inOrder: (_ arrived: TensorView, _ places: TensorView) throws(EngineError) -> Void
  ) throws(EngineError) {
    if keepsArrivals { return try exchange(rows) }
    let arrived = try arena.take(rows.shape, rows.dtype)
    try exchange(arrived)
    try inOrder(arrived, column(route.arrivals))
  }

  /// The rows as they leave: where they are, or copied from expert order to that of their arrival.
  private func leave(
    _ rows: TensorView, _ route: RowRoute, _ arena: inout Arena,
    place: (_ places: TensorView, _ leaving: TensorView) throws(EngineError) -> Void
  ) throws(EngineError) -> TensorView {
    if keepsArrivals { return rows }
    let leaving = try arena.take(rows.shape, rows.dtype)
    try place(column(route.arrivals), leaving)
    return leaving
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
