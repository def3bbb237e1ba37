import AutoEPCore
import AutoEPLayerLaws
import AutoEPSystem
import Glibc
import Testing

@testable import AutoEPCPU

@Suite struct BackendLawTests {
  @Test(arguments: backendLawNames)
  func bestKernels(law: String) throws {
    try checkBackend(
      CPUBackend(threadCount: 3, kernels: .chosen(), leastShared: 0), memory: HostMemory(),
      dtypes: [.f64, .f32, .bf16], filter: law)
  }

  /// What depends on the kernels: products, and the experts made of them.
  @Test(
    arguments: testKernels.dropFirst(),
    ["groupedGEMM: rows", "groupedGEMMWeight", "expertsForward"])
  func otherKernels(kernels: KernelSet, laws: String) throws {
    try checkBackend(
      CPUBackend(threadCount: 1, kernels: kernels), memory: HostMemory(),
      dtypes: [.f64, .f32, .bf16], hasLargeSizes: false, filter: laws)
  }
}

/// The kernels that this machine runs. OpenBLAS, which serves processors without AVX2, shows those it
/// has for them.
let testKernels = {
  unsafe setenv("OPENBLAS_CORETYPE", "Sandybridge", 1)
  return KernelSet.Kind.allCases.compactMap { KernelSet($0) }
}()

extension KernelSet: CustomTestStringConvertible {
  /// The name in a test's output.
  public var testDescription: String { name }
}
