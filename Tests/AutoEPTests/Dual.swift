import Foundation

/// The numbers of the reference layer: f64, with or without a derivative.
protocol Field: Sendable {
  init(_ value: Double)
  var value: Double { get }
  static func + (a: Self, b: Self) -> Self
  static func - (a: Self, b: Self) -> Self
  static func * (a: Self, b: Self) -> Self
  /// f of this number, given f's value and slope here.
  func mapped(_ value: Double, slope: Double) -> Self
}

extension Double: Field {
  var value: Double { self }
  func mapped(_ value: Double, slope: Double) -> Double { value }
}

/// A number and its derivative along one direction: forward-mode differentiation, which shares no code with the
/// backward that it checks.
struct Dual: Field {
  var value: Double
  var slope: Double

  init(_ value: Double) { self.init(value, slope: 0) }
  init(_ value: Double, slope: Double) {
    self.value = value
    self.slope = slope
  }

  static func + (a: Dual, b: Dual) -> Dual { Dual(a.value + b.value, slope: a.slope + b.slope) }
  static func - (a: Dual, b: Dual) -> Dual { Dual(a.value - b.value, slope: a.slope - b.slope) }
  static func * (a: Dual, b: Dual) -> Dual {
    Dual(a.value * b.value, slope: a.slope * b.value + a.value * b.slope)
  }
  func mapped(_ value: Double, slope: Double) -> Dual { Dual(value, slope: slope * self.slope) }
}
