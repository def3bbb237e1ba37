/// Sends each routed copy to the rank that owns its expert, by an all-to-all over a transport.
public struct AllToAllDispatcher: TokenDispatcher {
  let backend: any HostBackend
  let transport: any Transport

  /// A dispatcher over the ranks of a transport.
  public init(backend: any HostBackend, transport: any Transport) {
    self.backend = backend
    self.transport = transport
  }

  /// Permute, all-to-all, and from the order of arrival into expert order.
  public func dispatch(
    _ x: TensorView, weights: TensorView?, plan: DispatchPlan, into rows: TensorView,
    arena: inout Arena
  ) throws(EngineError) {
    if plan.isLocal {
      return try backend.permute(x, rowOfSlot: plan.rowOfSlot.view, weights: weights, into: rows)
    }
    try arena.scope { (arena) throws(EngineError) in
      let packed = try arena.take([plan.rowsSent, x.shape[1]], x.dtype)
      let arrived = try arena.take(rows.shape, x.dtype)
      try backend.permute(x, rowOfSlot: plan.rowOfSlot.view, weights: weights, into: packed)
      try exchange(
        packed, plan.sendRows, into: arrived, plan.receiveRows, step: "dispatch of tokens")
      backend.copyRows(arrived, into: rows, blocks: plan.arrivalBlocks)
    }
  }

  /// Back into the order of arrival, and all-to-all.
  public func combine(
    _ rows: TensorView, plan: DispatchPlan, into results: TensorView, arena: inout Arena
  ) throws(EngineError) {
    if plan.isLocal {
      let all = RowBlock(source: 0, target: 0, count: plan.rowsReceived)
      return backend.copyRows(rows, into: results, blocks: [all])
    }
    try arena.scope { (arena) throws(EngineError) in
      let departing = try arena.take(rows.shape, rows.dtype)
      backend.copyRows(rows, into: departing, blocks: plan.arrivalBlocks.map(\.reversed))
      try exchange(
        departing, plan.receiveRows, into: results, plan.sendRows, step: "combine of results")
    }
  }

  private func exchange(
    _ send: TensorView, _ sendRows: [Int], into receive: TensorView, _ receiveRows: [Int],
    step: String
  ) throws(EngineError) {
    try transport.exchange(
      unsafe RowExchange(
        send: send.data, sendRows: sendRows, receive: receive.data, receiveRows: receiveRows,
        rowBytes: send.shape[1] * send.dtype.byteCount, step: step))
  }
}
