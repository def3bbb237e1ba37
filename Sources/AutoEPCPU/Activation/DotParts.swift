import AutoEPCore
import CMicroKernels

/// The gradient of a row's weight is ⟨d, A⟩ over its expert's F features. The number of threads determines how the
/// features are split, so the sum is kept as parts of a fixed width that no split cuts: one vector of 64 bytes.
enum DotParts<R: Real> {
  /// The features of one part.
  static var width: Int { 64 / MemoryLayout<R>.stride }

  /// The number of parts of `features` features.
  static func count(_ features: Int) -> Int { (features + width - 1) / width }
}

extension Real {
  /// The inner product of two rows of the same length, in a fixed order.
  static func innerProduct(_ a: Elements<Self>, _ b: Elements<Self>) -> Self {
    [Self](count: DotParts<Self>.count(a.count)) { dotParts(a, b, into: $0) }.reduce(0, +)
  }
}
