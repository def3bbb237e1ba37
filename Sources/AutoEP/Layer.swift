import AutoEPCore
import AutoEPSystem
import Synchronization

/// The experts of one layer, as stored behind a handle; usable from any context of one device.
final class Layer: Sendable {
  let configuration: ExpertsConfiguration
  /// The device that the layer computes on.
  let place: DevicePlace
  private let communicator: Communicator?
  /// Written into its plans; unique in this process.
  private let number: UInt64
  private let notes = SplitNotes()
  private static let lastNumber = Atomic<UInt64>(0)

  init(_ configuration: ExpertsConfiguration, _ communicator: Communicator?, at place: DevicePlace)
  {
    self.configuration = configuration
    self.communicator = communicator
    self.place = place
    number = Self.lastNumber.add(1, ordering: .relaxed).newValue
  }

  /// Whether the experts are sharded over several ranks, so that making a plan counts the rows.
  var countsRows: Bool { (communicator?.transport.size ?? 1) > 1 }

  /// Binds the layer to a backend of its device.
  func on(_ backend: any ComputeBackend) -> PlacedLayer {
    let dispatcher: any TokenDispatcher =
      if let transport = communicator?.transport, countsRows {
        AllToAllDispatcher(
          backend: backend, transport: transport, configuration: configuration, layer: number,
          notes: notes)
      } else {
        LocalDispatcher(backend: backend, configuration: configuration, layer: number)
      }
    return PlacedLayer(
      experts: ExpertsLayer(configuration, backend: backend, dispatcher: dispatcher),
      dispatcher: dispatcher)
  }
}

/// A layer bound to one backend.
struct PlacedLayer {
  let experts: ExpertsLayer
  let dispatcher: any TokenDispatcher

  /// The workspace bytes for making a plan of T tokens.
  func planBytes(_ numTokens: Int) -> Int { dispatcher.planScratchBytes(numTokens: numTokens) }

  func forwardBytes(_ numTokens: Int, _ rows: Int, makesPlan: Bool) -> Int {
    max(
      makesPlan ? planBytes(numTokens) : 0,
      dispatcher.openBytes(rowsCapacity: rows)
        + experts.forwardBytes(numTokens: numTokens, rowsCapacity: rows))
  }

  func backwardBytes(
    _ numTokens: Int, _ rows: Int, _ needs: ExpertsLayer.BackwardNeeds
  ) throws(EngineError) -> Int {
    try dispatcher.openBytes(rowsCapacity: rows)
      + experts.backwardBytes(numTokens: numTokens, rowsCapacity: rows, needs)
  }

  func dispatchBytes(_ numTokens: Int, _ rows: Int) -> Int {
    dispatcher.openBytes(rowsCapacity: rows)
      + experts.dispatchBytes(numTokens: numTokens, rowsCapacity: rows)
  }
}
