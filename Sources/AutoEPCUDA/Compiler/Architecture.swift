/// The processor that an image is for, as the compiler calls it.
struct Architecture: Sendable, Hashable {
  let major: Int
  let minor: Int

  /// sm_90 has instructions that only its own name, sm_90a, allows.
  var name: String { (major, minor) == (9, 0) ? "sm_90a" : "sm_\(major)\(minor)" }

  /// Whether a source runs there.
  func runs(_ target: KernelSource.Target) -> Bool {
    switch target {
    case .portable: major >= 8
    case .sm90a: (major, minor) == (9, 0)
    }
  }

  /// What a source is compiled with. The verbose assembler's log is what tests read spills from.
  func options(_ defines: KernelSource.Choice) -> [String] {
    [
      "--gpu-architecture=\(name)", "--std=c++17", "--generate-line-info",
      "--ptxas-options=--verbose",
    ] + defines.map { "--define-macro=\($0.text)" }
  }
}
