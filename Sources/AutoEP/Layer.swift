import AutoEPCore
import AutoEPSystem
import Synchronization

/// The experts of one layer, as a handle keeps them: for any context of one device.
final class Layer: Sendable {
  let configuration: ExpertsConfiguration
  /// Where the layer computes.
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

  /// Whether the rows are spread over ranks, and counted when the plan is made.
  var countsRows: Bool { (communicator?.transport.size ?? 1) > 1 }

  /// The layer on a backend of its device.
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

/// A layer's pass on one backend.
struct PlacedLayer {
  let experts: ExpertsLayer
  let dispatcher: any TokenDispatcher

  /// The bytes of the workspaces of a pass over T tokens and so many rows.
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
