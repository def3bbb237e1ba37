import AutoEPCore
import AutoEPSystem

/// How many slots chose each expert.
struct ExpertCounts {
  let tokensPerExpert: [Int]

  /// Counts a choice `[T*K]`; throws for the first expert outside `0..<numExperts`.
  init(_ choice: [Int], numExperts: Int) throws(EngineError) {
    var counts = [Int](repeating: 0, count: numExperts)
    for (slot, expert) in choice.enumerated() {
      guard expert >= 0, expert < numExperts else {
        throw EngineError(
          .invalidArgument,
          "topk_idx holds \(expert) at slot \(slot); expected 0 to \(numExperts - 1)")
      }
      counts[expert] += 1
    }
    tokensPerExpert = counts
  }
}
