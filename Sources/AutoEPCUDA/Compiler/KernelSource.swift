/// A file of kernels, and the variants in which it is compiled.
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
  /// The file, which includes what it needs of `KernelHeader.all`.
  let text: [UInt8]
  let target: Target
  /// The axes of variation: a variant makes one choice on each, in this order. Nothing else is ever
  /// compiled.
  let axes: [[Choice]]

  /// A source from the folder of kernels.
  ///
  /// - Parameter text: the file, as `PackageResources` has it.
  init(_ name: String, _ text: [UInt8], _ target: Target = .portable, axes: [[Choice]] = []) {
    self.name = name
    self.text = text
    self.target = target
    self.axes = axes
  }

  /// Whether the source is compiled with these defines.
  func allows(_ defines: Choice) -> Bool { Self.allows(defines[...], axes[...]) }

  private static func allows(_ defines: ArraySlice<Define>, _ axes: ArraySlice<[Choice]>) -> Bool {
    guard let axis = axes.first else { return defines.isEmpty }
    return axis.contains { choice in
      defines.starts(with: choice) && allows(defines.dropFirst(choice.count), axes.dropFirst())
    }
  }
}
