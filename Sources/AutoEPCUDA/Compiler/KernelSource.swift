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
  /// What it is compiled with: one choice of each axis, an array of "NAME=value".
  let axes: [[[String]]]
  private let parts: @Sendable () -> [[UInt8]]

  /// A source behind the preludes that it uses.
  ///
  /// - Parameter parts: the preludes and then the file, as `PackageResources` has them.
  init(
    _ name: String, _ target: Target = .portable, axes: [[[String]]] = [],
    parts: @escaping @Sendable () -> [[UInt8]]
  ) {
    self.name = name
    self.target = target
    self.axes = axes
    self.parts = parts
  }

  /// Whether these are one choice of each axis, in order: nothing else is ever compiled.
  func allows(_ defines: [String]) -> Bool {
    var rest = defines[...]
    for axis in axes {
      let choices = axis.filter { rest.starts(with: $0) }
      guard let choice = choices.max(by: { $0.count < $1.count }) else { return false }
      rest = rest.dropFirst(choice.count)
    }
    return rest.isEmpty
  }

  /// Variants in which each choice of each axis comes up once, with the last of the others: what a
  /// test compiles.
  var everyChoice: [[String]] {
    let last = axes.map { $0.last ?? [] }
    let others = axes.indices.flatMap { index in
      axes[index].dropLast().map { choice in
        (last[..<index] + [choice] + last[(index + 1)...]).flatMap { $0 }
      }
    }
    return [last.flatMap { $0 }] + others
  }

  /// The whole text. Lines are numbered from 1 in each part.
  var text: [UInt8] {
    Array(
      parts().enumerated().flatMap { index, part in
        Array("#line 1 \"part \(index + 1) of \(name)\"\n".utf8) + part + Array("\n".utf8)
      })
  }
}
