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
  /// Stands for the expert rows where backward reads nothing but their shape.
  var unreadExpertRows: TensorView {
    unsafe TensorView(
      data: nil, shape: [plan.rowsSent, configuration.hiddenSize], dtype: configuration.dtype)
  }
}

let contexts = HandleTable<EngineContext>("context", tag: 1)
let communicators = HandleTable<Communicator>("communicator", tag: 2)
let plans = HandleTable<ExpertsPlan>("plan", tag: 3)
