import AutoEPCore
import AutoEPSystem

/// The number of slots of each expert.
struct ExpertCounts {
  let tokensPerExpert: [Int]

  /// Counts topk_idx `[T*K]`; throws for the first index outside `0..<numExperts`.
  init(_ topkIdx: [Int], numExperts: Int) throws(EngineError) {
    var counts = [Int](repeating: 0, count: numExperts)
    for (slot, expert) in topkIdx.enumerated() {
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
