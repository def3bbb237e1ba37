/// A source file of kernels and the variants in which it is compiled.
struct KernelSource: Sendable {
  /// The architectures that a source supports.
  enum Target: Sendable {
    /// sm_80 and later.
    case portable
    /// sm_90a only: TMA and WGMMA.
    case sm90a
  }

  /// A macro definition.
  struct Define: Sendable, Hashable {
    let name: String
    let value: Int

    /// The compiler's option.
    var text: String { "\(name)=\(value)" }

    /// Hashing the value is enough: all variants of a kernel define the same macro names.
    func hash(into hasher: inout Hasher) { hasher.combine(value) }
  }

  /// Macros that are defined together.
  typealias Defines = [Define]

  /// The file name, for messages.
  let name: String
  /// The text, which includes headers of `KernelHeader.all`.
  let text: [UInt8]
  let target: Target
  /// The axes of variation. A variant takes one set of defines from each axis, in this order; no other combinations are
  /// compiled.
  let axes: [[Defines]]

  /// Makes a source from a file in the folder of kernels.
  ///
  /// - Parameter text: The bytes in `PackageResources`.
  init(_ name: String, _ text: [UInt8], _ target: Target = .portable, axes: [[Defines]] = []) {
    self.name = name
    self.text = text
    self.target = target
    self.axes = axes
  }

  /// Whether the source has the variant with these defines.
  func allows(_ defines: Defines) -> Bool { Self.allows(defines[...], axes[...]) }

  private static func allows(_ defines: ArraySlice<Define>, _ axes: ArraySlice<[Defines]>) -> Bool {
    guard let axis = axes.first else { return defines.isEmpty }
    return axis.contains { choice in
      defines.starts(with: choice) && allows(defines.dropFirst(choice.count), axes.dropFirst())
    }
  }
}
