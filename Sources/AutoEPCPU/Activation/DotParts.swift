import AutoEPCore
import CMicroKernels

/// The gradient of a row's weight is ⟨d, A⟩ over the F features of its expert. Threads share features in cuts that
/// depend on their number, so the sum is left in parts of a fixed width, which every cut respects: a vector of 64 bytes.
enum DotParts<R: Real> {
  /// Features of a part.
  static var width: Int { 64 / MemoryLayout<R>.stride }

  /// Parts of so many features.
  static func count(_ features: Int) -> Int { (features + width - 1) / width }
}

extension Real {
  /// The inner product of two rows of the same length, in a fixed order.
  static func innerProduct(_ a: Elements<Self>, _ b: Elements<Self>) -> Self {
    [Self](count: DotParts<Self>.count(a.count)) { dotParts(a, b, into: $0) }.reduce(0, +)
  }
}
