import AutoEPCore
import AutoEPSystem

/// The ranks that each token goes to, and its choices as each rank numbers them.
extension CPUBackend {
  /// ranks[t,p] = p if one of token t's experts is on rank p, else -1.
  public func ranksOfTokens(
    _ topkIdx: TensorView, numExperts: Int, into ranks: TensorView
  ) throws(EngineError) {
    let (tokens, topK, size) = (topkIdx.shape[0], topkIdx.shape[1], ranks.shape[1])
    let experts = try ExpertNumbers(topkIdx, numExperts: numExperts, numRanks: size)
    let ranks = Elements<Int32>(ranks)
    for slot in 0..<tokens * size { ranks[slot] = -1 }
    for token in 0..<tokens {
      for slot in token * topK..<(token + 1) * topK {
        guard let rank = experts[slot]?.rank else { continue }
        ranks[token * size + rank] = Int32(rank)
      }
    }
  }

  /// choices[rowOfSlot[t,p],k] = topkIdx[t,k], counted from the first expert of rank p; -1 if it is none of them.
  public func choicesOfRanks(
    _ topkIdx: TensorView, numExperts: Int, rowOfSlot: TensorView, into choices: TensorView
  ) throws(EngineError) {
    let (tokens, topK, size) = (topkIdx.shape[0], topkIdx.shape[1], rowOfSlot.shape[1])
    let experts = try ExpertNumbers(topkIdx, numExperts: numExperts, numRanks: size)
    let rows = SlotRows(rowOfSlot, rowCount: choices.shape[0])
    let choices = Elements<Int32>(choices)
    for token in 0..<tokens {
      for rank in 0..<size {
        guard let row = rows[token * size + rank] else { continue }
        for k in 0..<topK {
          let expert = experts[token * topK + k]
          choices[row * topK + k] = expert?.rank == rank ? Int32(expert?.local ?? -1) : -1
        }
      }
    }
  }
}

/// The rank of each slot's expert, and its number there.
private struct ExpertNumbers {
  private let indices: [Int]
  private let numExperts: Int
  private let perRank: Int

  init(_ topkIdx: TensorView, numExperts: Int, numRanks: Int) throws(EngineError) {
    self.numExperts = numExperts
    perRank = expertRange(numExperts: numExperts, numRanks: numRanks, rank: 0).count
    switch topkIdx.dtype {
    case .i32: indices = Self.read(Elements<Int32>(topkIdx))
    case .i64: indices = Self.read(Elements<Int64>(topkIdx))
    case .f32, .f64, .bf16, .f16:
      throw CPUBackend.unsupported(topkIdx.dtype, by: "the choice of ranks")
    }
  }

  subscript(slot: Int) -> (rank: Int, local: Int)? {
    let index = indices[slot]
    guard index >= 0, index < numExperts else { return nil }
    return (index / perRank, index % perRank)
  }

  private static func read<Index: FixedWidthInteger>(_ elements: Elements<Index>) -> [Int] {
    (0..<elements.count).map { Int(clamping: elements[$0]) }
  }
}
