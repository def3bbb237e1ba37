import AutoEPSystem

/// Sends each routed copy to the rank that owns its expert, by an all-to-all over a transport.
public struct AllToAllDispatcher: TokenDispatcher {
  let backend: any HostBackend
  let transport: any Transport

  /// A dispatcher over the ranks of a transport.
  public init(backend: any HostBackend, transport: any Transport) {
    self.backend = backend
    self.transport = transport
  }

  /// Permute into the copies to send, and all-to-all.
  public func dispatch(
    _ x: TensorView, weights: TensorView?, plan: DispatchPlan, into rows: TensorView,
    arena: inout Arena
  ) throws(EngineError) {
    if plan.isLocal {
      return try backend.permute(x, rowOfSlot: plan.rowOfSlot.view, weights: weights, into: rows)
    }
    try arena.scope { (arena) throws(EngineError) in
      let copies = try arena.take([plan.rowsSent, x.shape[1]], x.dtype)
      try backend.permute(x, rowOfSlot: plan.rowOfSlot.view, weights: weights, into: copies)
      try exchange(copies, plan.sendRows, into: rows, plan.receiveRows, step: "dispatch of tokens")
    }
  }

  /// All-to-all, the other way.
  public func combine(
    _ rows: TensorView, plan: DispatchPlan, into results: TensorView
  ) throws(EngineError) {
    try exchange(rows, plan.receiveRows, into: results, plan.sendRows, step: "combine of results")
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
