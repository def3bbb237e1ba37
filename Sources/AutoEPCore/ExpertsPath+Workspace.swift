extension ExpertsPath {
  /// Bytes that `forward` takes from its arena: the copies to send, and then the experts' results.
  public func forwardWorkspaceBytes(_ plan: DispatchPlan) -> Int {
    plan.isLocal ? 0 : max(copiesBytes(plan), receivedBytes(plan))
  }

  /// Bytes that `backward` takes from its arena: gradRows all along, and after one another the copies to
  /// send, the experts' gradients, and the copies that come back.
  public func backwardWorkspaceBytes(_ plan: DispatchPlan) -> Int {
    let experts =
      bytes(plan.rowsReceived, configuration.gateUpSize)
      + bytes(plan.rowsReceived, configuration.ffnSize)
    return receivedBytes(plan) + max(plan.isLocal ? 0 : copiesBytes(plan), experts)
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
