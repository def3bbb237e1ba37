/// A file of kernels, and the ways in which it is compiled.
struct KernelSource: Sendable {
  /// The processors that a source is for.
  enum Target: Sendable {
    /// sm_80 and everything after it.
    case portable
    /// sm_90a alone: TMA and WGMMA.
    case sm90a
  }

  /// A macro that a source is compiled with.
  struct Define: Sendable, Hashable {
    let name: String
    let value: Int

    /// As the compiler takes it.
    var text: String { "\(name)=\(value)" }

    /// By its value: the choices of one kernel name the same macros.
    func hash(into hasher: inout Hasher) { hasher.combine(value) }
  }

  /// Defines that are chosen together.
  typealias Choice = [Define]

  /// The file's name, for messages.
  let name: String
  let target: Target
  /// What a variant is made of: one choice of each, in this order. Nothing else is ever compiled.
  let axes: [[Choice]]
  private let parts: @Sendable () -> [[UInt8]]

  /// A source behind the preludes that it uses.
  ///
  /// - Parameter parts: the preludes and then the file, as `PackageResources` has them.
  init(
    _ name: String, _ target: Target = .portable, axes: [[Choice]] = [],
    parts: @escaping @Sendable () -> [[UInt8]]
  ) {
    self.name = name
    self.target = target
    self.axes = axes
    self.parts = parts
  }

  /// A source with few variants, each given as a whole.
  init(
    _ name: String, _ target: Target = .portable, variants: [Choice],
    parts: @escaping @Sendable () -> [[UInt8]]
  ) {
    self.init(name, target, axes: [variants], parts: parts)
  }

  /// Whether the source is compiled with these defines.
  func allows(_ defines: Choice) -> Bool { Self.allows(defines[...], axes[...]) }

  private static func allows(_ defines: ArraySlice<Define>, _ axes: ArraySlice<[Choice]>) -> Bool {
    guard let axis = axes.first else { return defines.isEmpty }
    return axis.contains { choice in
      defines.starts(with: choice) && allows(defines.dropFirst(choice.count), axes.dropFirst())
    }
  }

  /// The whole text. Lines are numbered from 1 in each part.
  var text: [UInt8] {
    Array(
      parts().enumerated().flatMap { index, part in
        Array("#line 1 \"part \(index + 1) of \(name)\"\n".utf8) + part + Array("\n".utf8)
      })
  }
}
