import AutoEPSystem

/// Dispatch and combine for experts that the caller computes. Rows are in expert order.
extension ExpertsLayer {
  /// rows [R,H] = the copies of x [T,H] for this rank's experts, multiplied by `weights` [T,K] if given.
  public func dispatch(
    _ plan: DispatchPlan, _ x: TensorView, weights: TensorView?, into rows: TensorView,
    _ arena: inout Arena
  ) throws(EngineError) {
    let room = try roomBesides(rows, plan, isWeighted: weights != nil, &arena) ?? rows
    let placed = try dispatcher.dispatch(x, weights: weights, plan, room: room, &arena)
    switch placed.placement {
    case .inOrder: return
    case .tokens(let slots):
      try backend.permute(placed.tensor, rowOfSlot: slots.rowOfSlot, weights: nil, into: rows)
    case .indexed(let places):
      try backend.unpermute(room, rowOfSlot: column(places), weights: nil, into: rows)
    }
  }

  /// y [T,H] = Σ_k weights[t,k] · the row of slot (t,k); without weights a plain sum.
  public func combine(
    _ plan: DispatchPlan, _ rows: TensorView, weights: TensorView?, into y: TensorView,
    _ arena: inout Arena
  ) throws(EngineError) {
    var placed = rows
    if let places = arrivals(plan) {
      placed = try arena.take(rows.shape, rows.dtype)
      try backend.permute(rows, rowOfSlot: column(places), weights: nil, into: placed)
    }
    try dispatcher.combine(placed, weights: weights, plan, into: y, dots: nil, &arena)
  }

  /// Computes the gradients of `combine`: of its rows, and of its weights as ⟨gradY, row⟩ at the expert.
  public func combineBackward(
    _ plan: DispatchPlan, gradY: TensorView, rows: TensorView, topkWeights: TensorView,
    gradRows: TensorView, gradTopkWeights: TensorView, _ arena: inout Arena
  ) throws(EngineError) {
    guard dispatcher.delivery != .nothing else {
      try backend.slotDot(gradY, rows, rowOfSlot: plan.rowOfSlot, into: gradTopkWeights)
      return try backend.permute(
        gradY, rowOfSlot: plan.rowOfSlot, weights: topkWeights, into: gradRows)
    }
    if let arrived = plan.arrived {
      return try combineBackward(
        plan, arrived, gradY: gradY, rows: rows, topkWeights: topkWeights, gradRows: gradRows,
        gradTopkWeights: gradTopkWeights, &arena)
    }
    let sums = configuration.dtype.sumType
    let arrived = try arena.take(rows.shape, rows.dtype)
    let values = try arena.take([plan.rowsCapacity, 1], sums)
    _ = try dispatcher.dispatch(gradY, weights: nil, plan, room: arrived, &arena)
    if let places = arrivals(plan) {
      let weights = try arena.take([plan.rowsCapacity, 1], sums)
      try dispatcher.sendValues(topkWeights, plan, into: values, &arena)
      try backend.gatherFromRows(values, rowOfSlot: column(places), into: weights)
      try backend.unpermute(arrived, rowOfSlot: column(places), weights: weights, into: gradRows)
    } else {
      // No step multiplies rows that are in order already, so the senders do.
      _ = try dispatcher.dispatch(gradY, weights: topkWeights, plan, room: gradRows, &arena)
    }
    try backend.rowDot(
      ExpertRows(arrived, plan.placement), ExpertRows(rows), groups: plan.groups,
      into: ExpertRows(values, plan.placement))
    try dispatcher.sendBack(values, plan, into: gradTopkWeights, &arena)
  }

  /// Computes the gradients of `combine` for a dispatcher that delivers tokens. This rank treats them and their slots as
  /// a single rank treats its own.
  private func combineBackward(
    _ plan: DispatchPlan, _ arrived: ArrivedTokens, gradY: TensorView, rows: TensorView,
    topkWeights: TensorView, gradRows: TensorView, gradTopkWeights: TensorView,
    _ arena: inout Arena
  ) throws(EngineError) {
    let slots = arrived.slots.rowOfSlot
    let tokens = try arena.take([plan.rowCount.tokens, gradY.shape[1]], gradY.dtype)
    _ = try dispatcher.dispatch(gradY, weights: nil, plan, room: tokens, &arena)
    let dots = try arena.take([plan.rowsCapacity, 1], configuration.dtype.sumType)
    let ofSlots = try arena.take(slots.shape, configuration.dtype.sumType)
    try backend.slotDot(tokens, rows, rowOfSlot: slots, into: ofSlots)
    try backend.scatterToRows(ofSlots, rowOfSlot: slots, into: dots)
    try dispatcher.sendBack(dots, plan, into: gradTopkWeights, &arena)
    _ = try dispatcher.dispatch(gradY, weights: topkWeights, plan, room: gradRows, &arena)
  }

  /// The arena bytes that each of these functions needs besides `openBytes`.
  public func dispatchBytes(numTokens: Int, _ rows: RowCount) -> Int {
    let (width, dtype) = (configuration.hiddenSize, configuration.dtype)
    let exchange = dispatcher.exchangeBytes(numTokens: numTokens, rows)
    switch dispatcher.delivery {
    case .nothing: return 0
    case .rows:
      return Arena.footprint([rows.capacity, width], dtype)
        + 2 * Arena.footprint([rows.capacity], dtype.sumType) + exchange
    case .tokens:
      return Arena.footprint([rows.tokens, width], dtype)
        + Arena.footprint([rows.capacity], dtype.sumType)
        + Arena.footprint([rows.tokens, configuration.topK], dtype.sumType) + exchange
    }
  }

  /// Memory for the rows or tokens that arrive; nil if nothing arrives, or rows arrive in the order of `rows`.
  private func roomBesides(
    _ rows: TensorView, _ plan: DispatchPlan, isWeighted: Bool, _ arena: inout Arena
  ) throws(EngineError) -> TensorView? {
    switch dispatcher.delivery {
    case .nothing: nil
    case .rows: arrivals(plan) == nil ? nil : try arena.take(rows.shape, rows.dtype)
    case .tokens:
      isWeighted ? nil : try arena.take([plan.rowCount.tokens, rows.shape[1]], rows.dtype)
    }
  }

  /// The position of each row in order of arrival; nil if rows arrive in expert order.
  private func arrivals(_ plan: DispatchPlan) -> TensorView? {
    guard case .indexed(let places) = plan.placement else { return nil }
    return places
  }

}

/// `[R]` as the rows of R slots, one per token.
func column(_ places: TensorView) -> TensorView {
  TensorView(places.storage, shape: [places.elementCount, 1], dtype: places.dtype)
}
