import AutoEPCPU
import AutoEPCore
import AutoEPLayerLaws
import AutoEPSystem
import Testing

/// Checks that each law detects a defect.
@Suite struct WrongDispatcherTests {
  @Test(arguments: WrongDispatcher.Defect.allCases)
  func wrongDispatcherIsCaught(defect: WrongDispatcher.Defect) throws {
    let backend = try CPUBackend(numThreads: 1)
    let (law, text) = WrongDispatcher.symptom(of: defect)
    try expectBroken(law, saying: text) { setting in
      try checkDispatcher(on: backend, setting) { configuration, ranks in
        try allToAll(backend, configuration, ranks: ranks, timeout: 5).map {
          WrongDispatcher(base: $0, defect: defect)
        }
      }
    }
  }

  @Test func layersOfOneNumberAreCaught() throws {
    let backend = try CPUBackend(numThreads: 1)
    try expectBroken("open:", saying: "a plan of another layer: expected an error") { setting in
      try checkDispatcher(on: backend, setting) { configuration, ranks in
        try InProcessTransport.makeWorld(size: ranks, timeout: 5).map {
          AllToAllDispatcher(
            backend: backend, transport: $0, configuration: configuration, layer: 1)
        }
      }
    }
  }

  /// Expects exactly one law, checked on two ranks, to fail in this way.
  private func expectBroken(
    _ law: String, saying text: String, _ check: (DispatcherSetting) throws -> Void
  ) throws {
    var setting = DispatcherSetting.ranks([2])
    setting.dtypes = [.f64]
    setting.filter = law
    let error = try #require(throws: (any Error).self) { try check(setting) }
    #expect("\(error)".contains(law) && "\(error)".contains(text), "\(error)")
  }
}
