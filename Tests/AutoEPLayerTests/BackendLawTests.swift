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

  /// The laws that depend on the kernels: products, and experts.
  @Test(
    arguments: testKernels.dropFirst(),
    ["groupedGEMM: rows", "groupedGEMMWeight", "expertsForward"])
  func otherKernels(kernels: KernelSet, laws: String) throws {
    try checkBackend(
      CPUBackend(threadCount: 1, kernels: kernels), memory: HostMemory(),
      dtypes: [.f64, .f32, .bf16], hasLargeSizes: false, filter: laws)
  }
}

/// The kernels that this machine can run. OpenBLAS serves processors without AVX2, so it uses its kernels for
/// them here.
let testKernels = {
  unsafe setenv("OPENBLAS_CORETYPE", "Sandybridge", 1)
  return KernelSet.Kind.allCases.compactMap { KernelSet($0) }
}()

extension KernelSet: CustomTestStringConvertible {
  /// The name in a test's output.
  public var testDescription: String { name }
}
