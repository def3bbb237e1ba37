import CMicroKernels

extension KernelSet {
  /// The kernel sets, best first. OpenBLAS serves processors that have none of the preceding ones.
  enum Kind: String, CaseIterable {
    case avx512BF16 = "avx512_bf16"
    case avx512
    case avx2
    case openblas
    case neon
    case portable

    /// Why a machine may lack a set, as the end of a sentence.
    var reasonMissing: String {
      self == .openblas
        ? "libopenblas.so.0 cannot be loaded, or its products depend on a row's position"
        : "this processor lacks the instructions"
    }
  }

  /// Makes a kernel set; nil if this machine cannot run it.
  init?(_ kind: Kind) {
    if kind == .openblas {
      guard let set = OpenBLAS()?.kernels else { return nil }
      self = set
    } else {
      guard let found = unsafe kernel_set_named(kind.rawValue)?.pointee else { return nil }
      unsafe self.init(
        name: kind.rawValue, f32: MatrixKernel(found.f32.pointee),
        f64: MatrixKernel(found.f64.pointee), bf16: MatrixKernel(found.bf16.pointee))
    }
  }
}
