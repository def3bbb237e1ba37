import AutoEPCPU
import AutoEPCore
import AutoEPLayerLaws
import AutoEPSystem
import Testing

@Suite struct DispatcherLawTests {
  @Test(arguments: [1, 3])
  func localDispatcher(threads: Int) throws {
    let backend = try CPUBackend(numThreads: threads)
    try checkDispatcher(on: backend, .ranks([1])) { configuration, _ in
      [LocalDispatcher(backend: backend, configuration: configuration, layer: nextLayer())]
    }
  }

  @Test(arguments: [1, 3])
  func allToAllDispatcherAlone(threads: Int) throws {
    let backend = try CPUBackend(numThreads: threads)
    try checkDispatcher(on: backend, .ranks([1])) { configuration, _ in
      let layer = nextLayer()
      return [
        AllToAllDispatcher(
          backend: backend, transport: SelfTransport(), configuration: configuration, layer: layer)
      ]
    }
  }

  @Test(arguments: [1, 3])
  func allToAllDispatcher(threads: Int) throws {
    let backend = try CPUBackend(numThreads: threads)
    try checkDispatcher(on: backend, .ranks([2, 3, 4])) { try allToAll(backend, $0, ranks: $1) }
  }

  /// Rows that arrive are copied into expert order for products that read no others, and groups are prepared.
  @Test func allToAllDispatcherOfOrderedRows() throws {
    let backend = OrderedBackend(try CPUBackend(numThreads: 1))
    try checkDispatcher(on: backend, .ranks([1, 2, 3, 4])) {
      try allToAll(backend, $0, ranks: $1)
    }
  }

  @Test(arguments: [1, 3])
  func deduplicatedDispatcher(threads: Int) throws {
    let backend = try CPUBackend(numThreads: threads)
    var setting = DispatcherSetting.ranks([1, 2, 3, 4])
    setting.isBitwise = false
    try checkDispatcher(on: backend, setting) { try deduplicated(backend, $0, ranks: $1) }
  }

  @Test func deduplicatedDispatcherOfOrderedRows() throws {
    let backend = OrderedBackend(try CPUBackend(numThreads: 1))
    var setting = DispatcherSetting.ranks([2, 4])
    setting.isBitwise = false
    try checkDispatcher(on: backend, setting) { try deduplicated(backend, $0, ranks: $1) }
  }

  @Test func localDispatcherOfOrderedRows() throws {
    let backend = OrderedBackend(try CPUBackend(numThreads: 1))
    try checkDispatcher(on: backend, .ranks([1])) { configuration, _ in
      [LocalDispatcher(backend: backend, configuration: configuration, layer: nextLayer())]
    }
  }
}

extension DispatcherSetting {
  /// The setting for worlds of these sizes.
  static func ranks(_ sizes: [Int]) -> DispatcherSetting {
    var setting = DispatcherSetting()
    setting.sizes = sizes
    return setting
  }
}

private let layers = Locked<UInt64>(0)

/// A number that no other layer has.
func nextLayer() -> UInt64 {
  layers.withLock { last in
    last += 1
    return last
  }
}

/// Makes a world of deduplicated dispatchers, or of all-to-all ones where weights multiply the experts' inputs.
func deduplicated(
  _ backend: any ComputeBackend, _ configuration: ExpertsConfiguration, ranks: Int
) throws -> [any TokenDispatcher] {
  guard configuration.applyWeights == .after else {
    return try allToAll(backend, configuration, ranks: ranks)
  }
  let layer = nextLayer()
  return try InProcessTransport.makeWorld(size: ranks, timeout: 60).map {
    DeduplicatedDispatcher(
      backend: backend, transport: $0, configuration: configuration, layer: layer)
  }
}

/// Makes a world whose ranks are threads.
func allToAll(
  _ backend: any ComputeBackend, _ configuration: ExpertsConfiguration, ranks: Int,
  timeout: Double = 60
) throws -> [any TokenDispatcher] {
  let layer = nextLayer()
  return try InProcessTransport.makeWorld(size: ranks, timeout: timeout).map {
    AllToAllDispatcher(
      backend: backend, transport: $0, configuration: configuration, layer: layer)
  }
}
