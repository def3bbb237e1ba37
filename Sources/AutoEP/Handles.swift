import AutoEPCore
import Glibc

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

let contexts: HandleTable<EngineContext> = {
  // A child that is forked while another thread is in a table would wait for that thread, which it has not.
  pthread_atfork(lockTables, unlockTables, unlockTables)
  return HandleTable("context", tag: 1)
}()
let communicators = HandleTable<Communicator>("communicator", tag: 2)
let plans = HandleTable<ExpertsPlan>("plan", tag: 3)

private func lockTables() {
  contexts.lock()
  communicators.lock()
  plans.lock()
}

private func unlockTables() {
  plans.unlock()
  communicators.unlock()
  contexts.unlock()
}
