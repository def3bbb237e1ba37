import AutoEPSystem

/// Dispatch and combine for experts that the caller computes. Rows are in expert order.
extension ExpertsLayer {
  /// rows [R,H] = the copies of x [T,H] for this rank's experts, multiplied by `weights` [T,K] if given.
  public func dispatch(
    _ plan: DispatchPlan, _ x: TensorView, weights: TensorView?, into rows: TensorView,
    _ arena: inout Arena
  ) throws(EngineError) {
    let room = try arrivals(plan) == nil ? rows : arena.take(rows.shape, rows.dtype)
    let placed = try dispatcher.dispatch(x, weights: weights, plan, room: room, &arena)
    switch placed.placement {
    case .inOrder: return
    case .tokens(let slots):
      try backend.permute(x, rowOfSlot: slots.rowOfSlot, weights: nil, into: rows)
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
    guard dispatcher.receivesRows else {
      try backend.slotDot(gradY, rows, rowOfSlot: plan.rowOfSlot, into: gradTopkWeights)
      return try backend.permute(
        gradY, rowOfSlot: plan.rowOfSlot, weights: topkWeights, into: gradRows)
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

  /// The arena bytes that each of these functions needs besides `openBytes`.
  public func dispatchBytes(numTokens: Int, rowsCapacity: Int) -> Int {
    guard dispatcher.receivesRows else { return 0 }
    let rows = Arena.footprint([rowsCapacity, configuration.hiddenSize], configuration.dtype)
    let values = Arena.footprint([rowsCapacity], configuration.dtype.sumType)
    return rows + 2 * values
      + dispatcher.exchangeBytes(numTokens: numTokens, rowsCapacity: rowsCapacity)
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
