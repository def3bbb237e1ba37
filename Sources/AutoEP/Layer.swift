import AutoEPCore
import AutoEPSystem
import Synchronization

/// The experts of one layer, as stored behind a handle; usable from any context of one device.
final class Layer: Sendable {
  let configuration: ExpertsConfiguration
  /// The device that the layer computes on.
  let place: DevicePlace
  private let communicator: Communicator?
  private let dispatch: Dispatch
  /// Written into its plans; unique in this process.
  private let number: UInt64
  private let notes = SplitNotes()
  private static let lastNumber = Atomic<UInt64>(0)

  /// The kind of rows that a layer sends to other ranks; raw values are the C interface's.
  enum Dispatch: Int32 {
    case slots = 1
    case tokens = 2
  }

  init(
    _ configuration: ExpertsConfiguration, _ communicator: Communicator?, _ dispatch: Dispatch,
    at place: DevicePlace
  ) {
    self.configuration = configuration
    self.communicator = communicator
    self.dispatch = dispatch
    self.place = place
    number = Self.lastNumber.add(1, ordering: .relaxed).newValue
  }

  /// Whether the experts are sharded over several ranks, so that making a plan counts the rows.
  var countsRows: Bool { (communicator?.transport.size ?? 1) > 1 }

  /// Binds the layer to a backend of its device.
  func on(_ backend: any ComputeBackend) -> PlacedLayer {
    let dispatcher = dispatcher(on: backend)
    return PlacedLayer(
      experts: ExpertsLayer(configuration, backend: backend, dispatcher: dispatcher),
      dispatcher: dispatcher)
  }

  private func dispatcher(on backend: any ComputeBackend) -> any TokenDispatcher {
    guard let transport = communicator?.transport, countsRows else {
      return LocalDispatcher(backend: backend, configuration: configuration, layer: number)
    }
    switch dispatch {
    case .slots:
      return AllToAllDispatcher(
        backend: backend, transport: transport, configuration: configuration, layer: number,
        notes: notes)
    case .tokens:
      return DeduplicatedDispatcher(
        backend: backend, transport: transport, configuration: configuration, layer: number,
        notes: notes)
    }
  }
}

/// A layer bound to one backend.
struct PlacedLayer {
  let experts: ExpertsLayer
  let dispatcher: any TokenDispatcher

  /// The workspace bytes for making a plan of T tokens.
  func planScratchBytes(_ numTokens: Int) -> Int {
    dispatcher.planScratchBytes(numTokens: numTokens)
  }

  func forwardBytes(_ numTokens: Int, _ rows: RowCount, makesPlan: Bool) -> Int {
    max(
      makesPlan ? planScratchBytes(numTokens) : 0,
      dispatcher.openBytes(rows) + experts.forwardBytes(numTokens: numTokens, rows))
  }

  func backwardBytes(
    _ numTokens: Int, _ rows: RowCount, _ needs: ExpertsLayer.BackwardNeeds
  ) throws(EngineError) -> Int {
    try dispatcher.openBytes(rows)
      + experts.backwardBytes(numTokens: numTokens, rows, needs)
  }

  func dispatchBytes(_ numTokens: Int, _ rows: RowCount) -> Int {
    dispatcher.openBytes(rows) + experts.dispatchBytes(numTokens: numTokens, rows)
  }
}
