/// The upper half of a Float: 8 bits of exponent, 7 of fraction.
@frozen
public struct BFloat16: Sendable {
  /// The stored bits.
  public var bits: UInt16

  /// Rounds to nearest, ties to even; NaN stays NaN.
  @inlinable
  public init(_ value: Float) {
    let pattern = value.bitPattern
    if value.isNaN {
      bits = UInt16(truncatingIfNeeded: pattern >> 16) | 0x40
    } else {
      let tieToEven = 0x7FFF &+ ((pattern >> 16) & 1)
      bits = UInt16(truncatingIfNeeded: (pattern &+ tieToEven) >> 16)
    }
  }

  /// The exact value.
  @inlinable
  public var float: Float { Float(bitPattern: UInt32(bits) << 16) }
}
