import AutoEPCPU
import AutoEPCUDA
import AutoEPCore
import AutoEPSystem

/// A device with its threads or its stream, and its counters.
final class EngineContext: Sendable {
  private enum Engine {
    case cpu(CPUBackend)
    case cuda(CUDABackend)
  }

  private let engine: Engine
  let statistics = ExpertsStatistics()

  init(_ backend: CPUBackend) { engine = .cpu(backend) }
  init(_ backend: CUDABackend) { engine = .cuda(backend) }

  /// Where its tensors are.
  var place: DevicePlace {
    switch engine {
    case .cpu: .cpu
    case .cuda(let backend): DevicePlace(type: .cuda, id: backend.device.ordinal)
    }
  }

  /// 0 for a GPU.
  var numThreads: Int {
    switch engine {
    case .cpu(let backend): backend.numThreads
    case .cuda: 0
    }
  }

  /// What computes here. Throws what an earlier call has found wrong with its data.
  func backend() throws(EngineError) -> any ComputeBackend {
    switch engine {
    case .cpu(let backend): return backend
    case .cuda(let backend):
      try backend.checkFaults()
      return backend
    }
  }

  /// What computes here, for expert parallelism over a communicator.
  func hostBackend() throws(EngineError) -> any HostBackend {
    switch engine {
    case .cpu(let backend): return backend
    case .cuda:
      throw EngineError(
        .unsupported,
        "expert parallelism over several ranks is computed on CPUs only in this version, and the"
          + " context is of \(place.name); autoep_local_experts_forward has all experts on one GPU")
    }
  }

  /// What computes here, for all experts on one GPU. Throws what an earlier call has found wrong.
  func cudaBackend() throws(EngineError) -> CUDABackend {
    switch engine {
    case .cpu:
      throw EngineError(
        .unsupported,
        "autoep_local_experts_* compute on CUDA devices, and the context is of \(place.name); use"
          + " autoep_experts_plan with a communicator of one rank")
    case .cuda(let backend):
      try backend.checkFaults()
      return backend
    }
  }
}
