import AutoEPCore
import Glibc
import Testing

@testable import AutoEPCPU

/// The kernels that this machine can run. OpenBLAS serves processors without AVX2, so it uses its kernels for
/// them here.
let testKernels = {
  unsafe setenv("OPENBLAS_CORETYPE", "Sandybridge", 1)
  return KernelSet.Kind.allCases.compactMap { KernelSet($0) }
}()

/// A backend with the best kernels, or with given ones.
func testBackend(threads: Int = 2, kernels: KernelSet? = nil) -> CPUBackend {
  CPUBackend(threadCount: threads, kernels: kernels ?? testKernels[0], leastShared: 0)
}

extension KernelSet: CustomTestStringConvertible {
  /// The name in a test's output.
  public var testDescription: String { name }
}
