import AutoEPCore

/// The ranks of one group.
final class Communicator: Sendable {
  let transport: any Transport

  init(_ transport: any Transport) { self.transport = transport }
}

/// A plan with all that its forward and backward need.
final class ExpertsPlan: Sendable {
  let plan: DispatchPlan
  let configuration: ExpertsConfiguration
  let communicator: Communicator

  init(plan: DispatchPlan, configuration: ExpertsConfiguration, communicator: Communicator) {
    self.plan = plan
    self.configuration = configuration
    self.communicator = communicator
  }

  func path(on backend: any HostBackend) -> ExpertsPath {
    ExpertsPath(
      configuration, backend: backend,
      dispatcher: AllToAllDispatcher(backend: backend, transport: communicator.transport))
  }

  var rank: Int { communicator.transport.rank }
  var rowBytes: Int { configuration.hiddenSize * configuration.dtype.byteCount }
  var savedRows: Int { ExpertsPath.savedRows(plan, configuration) }
  /// Whether the backward reads x, and the results of the experts.
  var backwardReadsX: Bool { configuration.scoreApply == .before || savedRows < plan.rowsReceived }
  var backwardReadsExpertRows: Bool { configuration.scoreApply == .after }

  /// Stands for rows of which backward reads nothing but the shape.
  func unread(rows: Int) -> TensorView {
    unsafe TensorView(
      data: nil, shape: [rows, configuration.hiddenSize], dtype: configuration.dtype)
  }
}
