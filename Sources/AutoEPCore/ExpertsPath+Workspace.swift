extension ExpertsPath {
  /// Bytes that `forward` takes from its arena: the exchange comes and goes before the experts'
  /// results and their activation.
  public func forwardWorkspaceBytes(_ plan: DispatchPlan) -> Int {
    let activated = bytes(plan.rowsReceived, configuration.ffnSize)
    if plan.isLocal { return activated }
    let received = receivedBytes(plan)
    return max(copiesBytes(plan) + received, received + max(activated, received))
  }

  /// Bytes that `backward` takes from its arena: gradRows all along, and after one another the
  /// exchange, the experts' gradients, and the copies on their way back.
  public func backwardWorkspaceBytes(_ plan: DispatchPlan) -> Int {
    let received = receivedBytes(plan)
    let copies = copiesBytes(plan)
    let experts =
      bytes(plan.rowsReceived, configuration.gateUpSize)
      + bytes(plan.rowsReceived, configuration.ffnSize)
    return received + max(copies + (plan.isLocal ? 0 : received), experts)
  }

  private func receivedBytes(_ plan: DispatchPlan) -> Int {
    bytes(plan.rowsReceived, configuration.hiddenSize)
  }

  private func copiesBytes(_ plan: DispatchPlan) -> Int {
    bytes(plan.rowsSent, configuration.hiddenSize)
  }

  private func bytes(_ rows: Int, _ columns: Int) -> Int {
    Arena.footprint([rows, columns], configuration.dtype)
  }
}
