import CMicroKernels

extension KernelSet {
  /// The kernels there are, best first. OpenBLAS serves processors without one of the first two.
  enum Kind: String, CaseIterable {
    case avx512
    case avx2
    case openblas
    case portable

    /// Why a machine may lack them, as the end of a sentence.
    var reasonMissing: String {
      self == .openblas
        ? "libopenblas.so.0 cannot be loaded, or its products depend on where a row stands"
        : "this processor lacks the instructions"
    }
  }

  /// Makes the kernels of a kind; nil where this machine cannot run them.
  init?(_ kind: Kind) {
    if kind == .openblas {
      guard let set = OpenBLAS()?.kernels else { return nil }
      self = set
    } else {
      guard let found = unsafe micro_kernels_named(kind.rawValue)?.pointee else { return nil }
      unsafe self.init(
        name: kind.rawValue,
        f32: TileKernel(rows: found.f32_rows, columns: found.f32_columns, function: found.f32),
        f64: TileKernel(rows: found.f64_rows, columns: found.f64_columns, function: found.f64))
    }
  }
}
