/// Where each routed copy of one set of choices goes, and in which order it arrives.
public final class DispatchPlan: Sendable {
  /// K.
  public let topK: Int
  /// T.
  public let numTokens: Int
  /// The experts of this rank.
  public let localExperts: Range<Int>
  /// Row of each slot in expert order, `[T,K]` i32.
  public let rowOfSlot: HostBuffer
  /// Copies this rank sends to each expert, `[E]`.
  public let tokensPerExpertSent: [Int]
  /// Copies this rank receives for each of its experts, `[e]`.
  public let tokensPerExpertReceived: [Int]
  /// The same as a tensor, i64.
  public let rowsPerExpert: HostBuffer
  /// Rows to each rank, `[P]`.
  public let sendRows: [Int]
  /// Rows from each rank, `[P]`.
  public let receiveRows: [Int]
  /// From the order of arrival (source rank, expert) to expert order (expert, source rank).
  public let arrivalBlocks: [RowBlock]

  /// N: rows this rank sends.
  public let rowsSent: Int
  /// R: rows this rank receives.
  public let rowsReceived: Int

  /// Whether all rows stay on this rank, because it is the only one.
  public var isLocal: Bool { sendRows.count == 1 }

  /// Lays out the rows, given how many copies `countsReceived[p][j]` rank p sends to local expert j.
  init(
    topkIdx: TensorView, rowOfSlot: HostBuffer, tokensPerExpertSent: [Int],
    expertRanges: [Range<Int>], rank: Int, countsReceived: [[Int]]
  ) throws(EngineError) {
    numTokens = topkIdx.shape[0]
    topK = topkIdx.shape[1]
    self.rowOfSlot = rowOfSlot
    self.tokensPerExpertSent = tokensPerExpertSent
    localExperts = expertRanges[rank]
    sendRows = expertRanges.map { tokensPerExpertSent[$0].reduce(0, +) }
    receiveRows = countsReceived.map { $0.reduce(0, +) }
    rowsSent = numTokens * topK
    rowsReceived = receiveRows.reduce(0, +)
    tokensPerExpertReceived = localExperts.indices.map { expert in
      countsReceived.reduce(0) { $0 + $1[expert - expertRanges[rank].lowerBound] }
    }
    rowsPerExpert = try HostBuffer(integers: tokensPerExpertReceived)
    arrivalBlocks = Self.arrivalBlocks(countsReceived, numExperts: localExperts.count)
  }

  private static func arrivalBlocks(_ counts: [[Int]], numExperts: Int) -> [RowBlock] {
    var nextOfSource: [Int] = []
    var arrived = 0
    for ofSource in counts {
      nextOfSource.append(arrived)
      arrived += ofSource.reduce(0, +)
    }
    var blocks: [RowBlock] = []
    var target = 0
    for expert in 0..<numExperts {
      for (source, ofSource) in counts.enumerated() where ofSource[expert] > 0 {
        let count = ofSource[expert]
        blocks.append(RowBlock(source: nextOfSource[source], target: target, count: count))
        nextOfSource[source] += count
        target += count
      }
    }
    return blocks
  }
}
