/// A file of kernels, and the ways in which it is compiled.
struct KernelSource: Sendable {
  /// The processors that a source is for.
  enum Target: Sendable {
    /// sm_80 and everything after it.
    case portable
    /// sm_90a alone: TMA and WGMMA.
    case sm90a
  }

  /// The file's name, for messages.
  let name: String
  let target: Target
  /// Each an array of "NAME=value": nothing else is ever compiled, so tests can compile all.
  let variants: [[String]]
  private let parts: @Sendable () -> [[UInt8]]

  /// A source behind the preludes that it uses.
  ///
  /// - Parameter parts: the preludes and then the file, as `PackageResources` has them.
  init(
    _ name: String, _ target: Target = .portable, variants: [[String]] = [[]],
    parts: @escaping @Sendable () -> [[UInt8]]
  ) {
    self.name = name
    self.target = target
    self.variants = variants
    self.parts = parts
  }

  /// The whole text. Lines are numbered from 1 in each part.
  var text: [UInt8] {
    Array(
      parts().enumerated().flatMap { index, part in
        Array("#line 1 \"part \(index + 1) of \(name)\"\n".utf8) + part + Array("\n".utf8)
      })
  }
}
