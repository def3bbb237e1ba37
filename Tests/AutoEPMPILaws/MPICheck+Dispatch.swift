import AutoEPCPU
import AutoEPCore
import AutoEPLayerLaws

extension MPICheck {
  /// Checks the laws of the all-to-all dispatcher; each rank checks its own part.
  func dispatcher() throws {
    let transport = try open()
    let backend = try CPUBackend(numThreads: 1)
    var setting = DispatcherSetting()
    setting.sizes = [transport.size]
    setting.firstRank = transport.rank
    var layer: UInt64 = 0
    try checkDispatcher(on: backend, setting) { configuration, _ in
      layer += 1
      return [
        AllToAllDispatcher(
          backend: backend, transport: transport, configuration: configuration, layer: layer)
      ]
    }
  }
}
