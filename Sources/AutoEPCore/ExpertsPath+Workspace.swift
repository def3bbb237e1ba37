extension ExpertsPath {
  /// Bytes that `forward` takes from its arena: the copies to send, and then the experts' results.
  public func forwardWorkspaceBytes(_ plan: DispatchPlan) -> Int {
    plan.isLocal ? 0 : max(bytes(plan.rowsSent), bytes(plan.rowsReceived))
  }

  /// Bytes of the workspace of `backward`, which works in the memory of gate/up's gradient too if that is
  /// wanted.
  public func backwardWorkspaceBytes(_ plan: DispatchPlan, gateUpGradient isWanted: Bool) -> Int {
    backwardLayout(plan, gateUpGradient: isWanted).workspaceBytes
  }

  func backwardLayout(_ plan: DispatchPlan, gateUpGradient isWanted: Bool) -> BackwardLayout {
    BackwardLayout(plan, configuration, lentBytes: isWanted ? gateUpBytes(plan) : 0)
  }

  /// The bytes of gate/up's weights; the most there can be for a plan whose weights cannot be.
  private func gateUpBytes(_ plan: DispatchPlan) -> Int {
    let (bytes, overflows) = (plan.localExperts.count * configuration.gateUpSize)
      .multipliedReportingOverflow(by: configuration.hiddenSize * configuration.dtype.byteCount)
    return overflows ? .max : bytes
  }

  private func bytes(_ rows: Int) -> Int {
    Arena.footprint([rows, configuration.hiddenSize], configuration.dtype)
  }
}
