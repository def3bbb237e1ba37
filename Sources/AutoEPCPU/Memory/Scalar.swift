import AutoEPCore

/// An element of a float tensor: stored in one type, computed with in another.
protocol Scalar {
  /// What sums of this element accumulate in.
  associatedtype Wide: Real

  /// Rounds once, to nearest even.
  init(rounding wide: Wide)

  /// The value, exactly.
  var wide: Wide { get }
}

extension Float: Scalar {
  init(rounding wide: Float) { self = wide }
  var wide: Float { self }
}

extension Double: Scalar {
  init(rounding wide: Double) { self = wide }
  var wide: Double { self }
}

extension BFloat16: Scalar {
  init(rounding wide: Float) { self.init(wide) }
  var wide: Float { float }
}

extension Float16: Scalar {
  init(rounding wide: Float) { self.init(wide) }
  var wide: Float { Float(self) }
}
