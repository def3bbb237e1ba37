import AutoEPCore
import AutoEPSystem
import Testing

@testable import AutoEPCPU

@Suite struct ConfigurationTests {
  @Test(arguments: [0, -1, 1025, Int.min, Int.max])
  func numbersOfThreadsOutOfRangeAreRefused(count: Int) throws {
    let error = try #require(throws: EngineError.self) { try CPUBackend(numThreads: count) }
    #expect(error.kind == .invalidArgument)
    #expect(error.message.contains("num_threads is \(count)"))
  }

  @Test func theCallersNumberGoesBeforeTheEnvironments() throws {
    let (ofEnvironment, ofCaller, ofMachine) = (
      try ThreadCount.resolve(nil, environment: "3"),
      try ThreadCount.resolve(2, environment: "3"),
      try ThreadCount.resolve(nil, environment: nil)
    )
    #expect(ofEnvironment == 3)
    #expect(ofCaller == 2)
    #expect(ofMachine >= 1)
  }

  @Test(arguments: ["0", "two", "3 ", "-1", "99999999999999999999"])
  func aMalformedNumberOfThreadsIsRefused(text: String) throws {
    let error = try #require(throws: EngineError.self) {
      try ThreadCount.resolve(nil, environment: text)
    }
    #expect(error.kind == .invalidArgument)
    #expect(error.message.contains("AUTOEP_NUM_THREADS is '\(text)'"))
  }

  @Test func theBackendHasTheThreadsAskedFor() throws {
    let backend = try CPUBackend(numThreads: 3)
    #expect(backend.numThreads == 3)
  }

  @Test(arguments: testKernels)
  func theEnvironmentNamesTheKernels(kernels: KernelSet) throws {
    let chosen = try KernelSet.chosen(environment: kernels.name)
    #expect(chosen.name == kernels.name)
  }

  @Test func unknownKernelsAreRefused() throws {
    let error = try #require(throws: EngineError.self) {
      try KernelSet.chosen(environment: "avx1024")
    }
    #expect(error.kind == .invalidArgument)
    #expect(error.message.contains("avx512, avx2, openblas, neon, portable"))
  }

  @Test func portableKernelsAreEverywhere() {
    #expect(testKernels.last?.name == "portable")
  }
}
