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
      let holdsDispatcher = holds(dispatcherLawNames) { try checkLocalDispatcher(backend, memory) }
      print(holdsBackend && holdsDispatcher ? "all laws hold" : "laws are broken, see above")
      return holdsBackend && holdsDispatcher
    } catch {
      print("cannot use the device's memory: \(error)")
      return false
    }
  }

  /// Checks the dispatcher of a single rank; several GPUs have dispatchers of their own.
  private func checkLocalDispatcher(_ backend: CUDABackend, _ memory: DeviceMemory) throws {
    var setting = DispatcherSetting()
    setting.memory = memory
    setting.dtypes = Self.dtypes
    setting.sizes = [1]
    setting.filter = filter
    setting.report = report
    try checkDispatcher(on: backend, setting) { configuration, _ in
      [LocalDispatcher(backend: backend, configuration: configuration, layer: 1)]
    }
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
