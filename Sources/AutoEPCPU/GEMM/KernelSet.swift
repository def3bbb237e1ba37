import AutoEPCore
import AutoEPSystem
import CMicroKernels

/// The kernels of one instruction set.
struct KernelSet: Sendable {
  let name: String
  let f32: MatrixKernel<Float>
  let f64: MatrixKernel<Double>
  let bf16: MatrixKernel<Float>

  /// The best kernel set of this machine, or the one named by AUTOEP_CPU_KERNELS.
  static func chosen(
    environment: String? = environmentValue("AUTOEP_CPU_KERNELS")
  ) throws(EngineError) -> KernelSet {
    guard let name = environment else { return try best() }
    guard let kind = Kind(rawValue: name) else {
      throw EngineError(
        .invalidArgument,
        "AUTOEP_CPU_KERNELS is '\(name)'; expected one of "
          + Kind.allCases.map(\.rawValue).joined(separator: ", "))
    }
    guard let set = KernelSet(kind) else {
      throw EngineError(
        .missingLibrary, "AUTOEP_CPU_KERNELS is '\(name)', but \(kind.reasonMissing)")
    }
    return set
  }

  private static func best() throws(EngineError) -> KernelSet {
    for kind in Kind.allCases {
      if let set = KernelSet(kind) { return set }
    }
    throw EngineError(.internal, "no matrix kernel for this machine")
  }
}
