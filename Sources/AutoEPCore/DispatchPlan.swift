import AutoEPSystem

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
  /// Where each row of this rank's experts, in expert order, comes from, `[R]` i32: its token if this
  /// rank is alone, else its place among all that arrive, which is by source rank, then expert.
  public let sourceOfRow: HostBuffer

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
    sourceOfRow = try HostBuffer(shape: [rowsReceived], dtype: .i32)
    if isLocal {
      fillWithTokens(sourceOfRow.view)
    } else {
      fillWithArrivals(sourceOfRow.view, countsReceived)
    }
  }

  private func fillWithTokens(_ sourceOfRow: TensorView) {
    for slot in 0..<numTokens * topK {
      let row = unsafe Int(rowOfSlot.view.load(Int32.self, at: slot))
      unsafe sourceOfRow.store(Int32(slot / topK), at: row)
    }
  }

  /// Expert order is by expert, then source rank.
  private func fillWithArrivals(_ sourceOfRow: TensorView, _ counts: [[Int]]) {
    var nextOfSource: [Int] = []
    var arrived = 0
    for rows in receiveRows {
      nextOfSource.append(arrived)
      arrived += rows
    }
    var row = 0
    for expert in localExperts.indices {
      for (source, ofSource) in counts.enumerated() {
        for _ in 0..<ofSource[expert - localExperts.lowerBound] {
          unsafe sourceOfRow.store(Int32(nextOfSource[source]), at: row)
          nextOfSource[source] += 1
          row += 1
        }
      }
    }
  }
}
