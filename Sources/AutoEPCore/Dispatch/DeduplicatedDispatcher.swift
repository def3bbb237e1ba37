import AutoEPSystem

/// Sends each token once to each rank that has one of its experts, with the list of those experts. The receiving rank
/// makes its rows from the tokens that arrive, as a single rank does from its own tokens, and sends one row per token
/// back: the sum over its experts. The owner of the token adds these sums in rank order.
///
/// This moves fewer bytes than a row for each slot does, but each rank's sum is rounded before it travels: results are
/// within tolerance of a single rank's, and do not have the same bits. The choice of tokens follows DeepEP's intranode
/// dispatch.
public struct DeduplicatedDispatcher: TokenDispatcher {
  let backend: any ComputeBackend
  let transport: any Transport
  let configuration: ExpertsConfiguration
  let layer: UInt64
  let notes: SplitNotes

  /// Creates a dispatcher over the ranks of a transport, for the layer of this number; `notes` are those of the layer.
  ///
  /// Weights must multiply the experts' outputs. The gradient of a weight on the input would need the rows of single
  /// slots at the token's owner, and only their sums come back.
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

  var counting: CountExchange {
    CountExchange(over: transport, numExperts: configuration.numExperts)
  }

  /// Tokens, from all ranks.
  public var delivery: Delivery { .tokens }

  /// The bytes of the tokens to send and of those that arrive, or their sums, and of K numbers for each of both.
  public func exchangeBytes(numTokens: Int, _ rows: RowCount) -> Int {
    let (sent, arriving) = (numTokens * transport.size, rows.tokens)
    let (width, dtype) = (configuration.hiddenSize, configuration.dtype)
    let (topK, sums) = (configuration.topK, configuration.dtype.sumType)
    return Arena.footprint([sent, width], dtype) + Arena.footprint([arriving, width], dtype)
      + Arena.footprint([sent, topK], sums) + Arena.footprint([arriving, topK], sums)
  }

  /// Returns the tokens that arrive; with weights, their weighted copies in expert order.
  public func dispatch(
    _ x: TensorView, weights: TensorView?, _ plan: DispatchPlan, room: TensorView,
    _ arena: inout Arena
  ) throws(EngineError) -> ExpertRows {
    let arrived = try arrived(of: plan)
    return try arena.scope { (arena) throws(EngineError) in
      guard let weights else {
        try send(x, plan, into: room, step: "dispatch of tokens", &arena)
        return ExpertRows(room, .tokens(arrived.slots))
      }
      let tokens = try arena.take([plan.rowCount.tokens, x.shape[1]], x.dtype)
      try send(x, plan, into: tokens, step: "dispatch of tokens", &arena)
      try backend.permute(
        tokens, rowOfSlot: arrived.slots.rowOfSlot, weights: receive(weights, plan, &arena),
        into: room)
      return ExpertRows(room)
    }
  }

  /// Sums the weighted rows of each token that arrived, and sends the sums to the token's owner, which adds them.
  public func combine(
    _ rows: TensorView, weights: TensorView?, _ plan: DispatchPlan, into y: TensorView?,
    dots: SlotDots?, _ arena: inout Arena
  ) throws(EngineError) {
    let arrived = try arrived(of: plan)
    guard dots == nil, let y else {
      throw EngineError(.internal, "a deduplicated combine computes y and nothing else")
    }
    try arena.scope { (arena) throws(EngineError) in
      let weights = try weights.map { (given) throws(EngineError) in
        try receive(given, plan, &arena)
      }
      let sums = try arena.take([plan.rowCount.tokens, rows.shape[1]], rows.dtype)
      try backend.unpermute(
        rows, rowOfSlot: arrived.slots.rowOfSlot, weights: weights, into: sums)
      try sendBack(sums, plan, addedInto: y, step: "combine of results", &arena)
    }
  }

  /// Sends the K numbers of each token, and places those of this rank's experts beside their rows.
  public func sendValues(
    _ values: TensorView, _ plan: DispatchPlan, into rows: TensorView, _ arena: inout Arena
  ) throws(EngineError) {
    let arrived = try arrived(of: plan)
    try arena.scope { (arena) throws(EngineError) in
      try backend.scatterToRows(
        receive(values, plan, &arena), rowOfSlot: arrived.slots.rowOfSlot, into: rows)
    }
  }

  /// Sends back a number for each slot of the tokens that arrived: 0 for a slot whose expert is on another rank, so
  /// that the owner can add what comes from all ranks.
  public func sendBack(
    _ partials: TensorView, _ plan: DispatchPlan, into values: TensorView, _ arena: inout Arena
  ) throws(EngineError) {
    let arrived = try arrived(of: plan)
    try arena.scope { (arena) throws(EngineError) in
      let ofSlots = try arena.take([plan.rowCount.tokens, configuration.topK], values.dtype)
      try backend.gatherFromRows(
        partials, rowOfSlot: arrived.slots.rowOfSlot, into: ofSlots)
      try sendBack(
        ofSlots, plan, addedInto: values, step: "combine of the weights' gradient", &arena)
    }
  }

  private func arrived(of plan: DispatchPlan) throws(EngineError) -> ArrivedTokens {
    guard let arrived = plan.arrived else {
      throw EngineError(.internal, "the plan of another dispatcher was given to this one")
    }
    return arrived
  }

  /// Exchanges one number per slot, `[T,K]`: returns those of the tokens that arrive, `[A,K]`.
  private func receive(
    _ values: TensorView, _ plan: DispatchPlan, _ arena: inout Arena
  ) throws(EngineError) -> TensorView {
    let received = try arena.take([plan.rowCount.tokens, values.shape[1]], values.dtype)
    try send(values, plan, into: received, step: "dispatch of weights", &arena)
    return received
  }

  /// Sends the row of each token, `[T,n]`, to the ranks of its experts: `[A,n]`.
  func send(
    _ tokens: TensorView, _ plan: DispatchPlan, into arriving: TensorView, step: String,
    _ arena: inout Arena
  ) throws(EngineError) {
    let splits = try arrived(of: plan).splits
    try arena.scope { (arena) throws(EngineError) in
      let leaving = try arena.take([splits.sent, tokens.shape[1]], tokens.dtype)
      try backend.permute(tokens, rowOfSlot: plan.rowOfSlot, weights: nil, into: leaving)
      try exchange(leaving, splits.sendRows, into: arriving, splits.receiveRows, step: step)
    }
  }

  /// Sends the row of each token that arrived, `[A,n]`, to the token's owner, which adds those of each token: `[T,n]`.
  private func sendBack(
    _ arrived: TensorView, _ plan: DispatchPlan, addedInto sums: TensorView, step: String,
    _ arena: inout Arena
  ) throws(EngineError) {
    let splits = try self.arrived(of: plan).splits
    try arena.scope { (arena) throws(EngineError) in
      let back = try arena.take([splits.sent, sums.shape[1]], sums.dtype)
      try exchange(arrived, splits.receiveRows, into: back, splits.sendRows, step: step)
      try backend.unpermute(back, rowOfSlot: plan.rowOfSlot, weights: nil, into: sums)
    }
  }

  func exchange(
    _ send: TensorView, _ sendRows: [Int], into receive: TensorView, _ receiveRows: [Int],
    step: String
  ) throws(EngineError) {
    try transport.exchange(
      RowExchange(
        send: send.storage, sendRows: sendRows, receive: receive.storage, receiveRows: receiveRows,
        rowBytes: send.shape[1] * send.dtype.byteCount, step: step, queue: backend.queue))
  }
}
