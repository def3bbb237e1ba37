/// A random number generator with a fixed sequence, the same on every rank.
struct LawRandom: RandomNumberGenerator {
  private var state: UInt64

  init(_ seed: Int) { state = UInt64(truncatingIfNeeded: seed) &* 0x2545_F491_4F6C_DD1D | 1 }

  mutating func next() -> UInt64 {
    state ^= state << 13
    state ^= state >> 7
    state ^= state << 17
    return state &* 0x2545_F491_4F6C_DD1D
  }

  /// Draws values of mean 0 and variance 1.
  mutating func values(_ count: Int) -> [Double] {
    (0..<count).map { _ in Double.random(in: -1.732...1.732, using: &self) }
  }

  /// Draws a number in `0..<bound`.
  mutating func below(_ bound: Int) -> Int { Int.random(in: 0..<bound, using: &self) }
}
