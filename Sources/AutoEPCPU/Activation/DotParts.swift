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

  /// parts[i] = the inner product of the i-th parts of two rows, in a fixed order.
  static func dotParts(_ a: Elements<Self>, _ b: Elements<Self>, into parts: Elements<Self>) {
    let width = DotParts<Self>.width
    for part in 0..<parts.count {
      var sum: Self = 0
      for index in part * width..<min((part + 1) * width, a.count) { sum += a[index] * b[index] }
      parts[part] = sum
    }
  }
}
