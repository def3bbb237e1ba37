import AutoEPCUDA
import AutoEPCore
import AutoEPDeviceLaws
import AutoEPLayerLaws
import AutoEPSystem
import Glibc

/// The laws on one device, on its default stream.
struct CUDALaws {
  private static let dtypes: [DataType] = [.f32, .bf16, .f16]
  private let device: CUDADevice
  private let filter: String

  init(_ device: CUDADevice, filter: String) {
    self.device = device
    self.filter = filter
  }

  /// Prints one line per law, followed by its failures; returns whether all laws hold.
  func run() -> Bool {
    do {
      let memory = try DeviceMemory(ordinal: device.ordinal)
      let backend = CUDABackend(device, stream: nil)
      let holdsBackend = holds(backendLawNames) {
        try checkBackend(
          backend, memory: memory, dtypes: Self.dtypes, filter: filter, report: report)
      }
      let holdsDispatcher = holds(dispatcherLawNames) {
        try checkLocalDispatcher(backend, memory)
        try checkRanks(backend, memory, once: false)
        try checkRanks(backend, memory, once: true)
      }
      print(holdsBackend && holdsDispatcher ? "all laws hold" : "laws are broken, see above")
      return holdsBackend && holdsDispatcher
    } catch {
      print("cannot use the device's memory: \(error)")
      return false
    }
  }

  /// Checks the dispatcher of a single rank.
  private func checkLocalDispatcher(_ backend: CUDABackend, _ memory: DeviceMemory) throws {
    try checkDispatcher(on: backend, setting(memory, sizes: [1])) { configuration, _ in
      [LocalDispatcher(backend: backend, configuration: configuration, layer: 1)]
    }
  }

  /// Checks a dispatcher of ranks that are threads and share the device.
  private func checkRanks(_ backend: CUDABackend, _ memory: DeviceMemory, once: Bool) throws {
    var setting = setting(memory, sizes: [2, 4])
    setting.isBitwise = !once
    setting.ranksShareDevice = true
    try checkDispatcher(on: backend, setting) { configuration, ranks in
      try InProcessTransport.makeWorld(size: ranks, timeout: 60).map { base in
        let transport = ThroughHostTransport(base, memory)
        if once && configuration.applyWeights == .after {
          return DeduplicatedDispatcher(
            backend: backend, transport: transport, configuration: configuration, layer: 1)
        }
        return AllToAllDispatcher(
          backend: backend, transport: transport, configuration: configuration, layer: 1)
      }
    }
  }

  private func setting(_ memory: DeviceMemory, sizes: [Int]) -> DispatcherSetting {
    var setting = DispatcherSetting()
    setting.memory = memory
    setting.dtypes = Self.dtypes
    setting.sizes = sizes
    setting.filter = filter
    setting.report = report
    return setting
  }

  /// Whether the selected laws hold. True if the filter selects none of them; failures have already been printed.
  private func holds(_ names: [String], _ check: () throws -> Void) -> Bool {
    guard filter.isEmpty || names.contains(where: { $0.contains(filter) }) else { return true }
    do { try check() } catch { return false }
    return true
  }
}

@Sendable
private func report(_ outcome: LawOutcome) {
  let error = outcome.largestError.map { "largest error \(percent($0)) of what is allowed" }
  let verdict = outcome.failures.isEmpty ? "holds " : "BROKEN"
  print("\(verdict) \(outcome.name)" + (error.map { ": \($0)" } ?? ""))
  for failure in outcome.failures { print("         \(failure)") }
  // Keeps the output if a kernel hangs later.
  fflush(nil)
}

private func percent(_ share: Double) -> String {
  share.isFinite && share < 1e6 ? "\((share * 1000).rounded() / 10) %" : "\(share) times"
}
