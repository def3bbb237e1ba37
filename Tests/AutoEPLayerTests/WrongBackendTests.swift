import AutoEPCPU
import AutoEPCore
import AutoEPLayerLaws
import Testing

/// Checks that each law detects a defect.
@Suite struct WrongBackendTests {
  @Test(arguments: WrongBackend.Defect.allCases)
  func wrongBackendIsCaught(defect: WrongBackend.Defect) throws {
    let backend = WrongBackend(try CPUBackend(numThreads: 2), defect)
    let law = WrongBackend.law(of: defect)
    let error = try #require(throws: (any Error).self) {
      try checkBackend(backend, memory: HostMemory(), dtypes: [.f64], filter: law)
    }
    #expect("\(error)".contains(law), "\(error)")
  }
}
