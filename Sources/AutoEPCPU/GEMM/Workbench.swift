/// The scratch memory of one thread: one piece per purpose, reused by the thread's next item.
final class Workbench {
  /// The use of a piece.
  enum Purpose: Int, CaseIterable {
    case rowAddresses, secondRowAddresses
    case targetAddresses, secondTargetAddresses
    case packedRows, packedRowAddresses
    case weightAddresses, packedWeights, packedWeightAddresses
    case secondWeightAddresses, secondPackedWeights, secondPackedWeightAddresses
    case panels, lookahead
    case sums, secondSums
    case hidden, activated
  }

  private var pieces = [ScratchMemory?](repeating: nil, count: Purpose.allCases.count)

  /// Memory of at least `byteCount` bytes, with undefined contents.
  func memory(for purpose: Purpose, byteCount: Int) -> ScratchMemory {
    if let piece = pieces[purpose.rawValue], piece.byteCount >= byteCount { return piece }
    pieces[purpose.rawValue] = nil  // Frees the old piece first.
    let piece = ScratchMemory(byteCount: byteCount)
    pieces[purpose.rawValue] = piece
    return piece
  }

  /// `count` elements with undefined contents.
  func elements<R: Scalar>(_: R.Type, for purpose: Purpose, count: Int) -> Elements<R> {
    memory(for: purpose, byteCount: count * MemoryLayout<R>.stride)
      .elements(R.self, from: 0, count: count)
  }

  /// The bytes of all pieces.
  var byteCount: Int { pieces.reduce(0) { $0 + ($1?.byteCount ?? 0) } }
}
