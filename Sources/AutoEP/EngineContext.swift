import AutoEPCPU
import AutoEPCUDA
import AutoEPCore
import AutoEPSystem

/// A device with its threads or its stream, and its counters.
final class EngineContext: Sendable {
  /// The device of the context's tensors.
  let place: DevicePlace
  /// The number of CPU threads; 0 for a GPU.
  let numThreads: Int
  let statistics = ExpertsStatistics()
  private let engine: any ComputeBackend

  init(_ backend: CPUBackend) {
    engine = backend
    place = .cpu
    numThreads = backend.numThreads
  }

  init(_ backend: CUDABackend) {
    engine = backend
    place = DevicePlace(type: .cuda, id: backend.device.ordinal)
    numThreads = 0
  }

  /// The backend of this context.
  ///
  /// - Parameter checksFaults: Whether to throw if an earlier call's work has found invalid data.
  func backend(checksFaults: Bool = true) throws(EngineError) -> any ComputeBackend {
    if checksFaults { try engine.checkFaults() }
    return engine
  }
}
