/// The GPU architecture that an image is compiled for.
struct Architecture: Sendable, Hashable {
  let major: Int
  let minor: Int

  /// The compiler's name. Some instructions of sm_90 need the name sm_90a.
  var name: String { (major, minor) == (9, 0) ? "sm_90a" : "sm_\(major)\(minor)" }

  /// Whether this architecture runs sources for `target`.
  func runs(_ target: KernelSource.Target) -> Bool {
    switch target {
    case .portable: major >= 8
    case .sm90a: (major, minor) == (9, 0)
    }
  }

  /// The compiler's options. Verbose, because tests read register spills from the log.
  func options(_ defines: KernelSource.Defines) -> [String] {
    [
      "--gpu-architecture=\(name)", "--std=c++17", "--generate-line-info",
      "--ptxas-options=--verbose",
    ] + defines.map { "--define-macro=\($0.text)" }
  }
}
