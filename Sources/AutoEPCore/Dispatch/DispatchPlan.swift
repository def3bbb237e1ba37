import AutoEPSystem

/// Where the row of each slot goes: what a dispatcher decides for one set of choices, in memory of the caller
/// on the backend's device.
///
/// This is the head that all dispatchers share; `details` is what a dispatcher keeps there for itself.
public struct DispatchPlan {
  /// T.
  public let numTokens: Int
  /// K.
  public let topK: Int
  /// R, as far as the host knows it.
  public let rowCount: RowCount
  /// The rows of this rank's experts, `[e+1]` i32.
  public let groups: RowGroups
  /// The row of each slot among those that this rank sends, `[T,K]` i32; -1 for a slot without an expert.
  public let rowOfSlot: TensorView
  /// How rows lie in the tensors that this rank's experts read and write.
  public let placement: ExpertRows.Placement
  /// The dispatcher's own part of the memory.
  let details: Arena
  /// How rows travel; nil where all ranks' rows stay where they are.
  let route: RowRoute?

  /// Rows that tensors must have room for.
  public var rowsCapacity: Int { rowCount.capacity }

  /// R; nil where only the device knows it.
  public var rowsInUse: Int? { groups.rowCount }
}

/// How many rows there are.
public struct RowCount: Sendable, Equatable {
  /// Rows that tensors must have room for.
  public let capacity: Int
  /// R; nil where only the device knows it.
  public let exact: Int?

  /// R rows, with room for no more.
  public static func exact(_ rows: Int) -> RowCount { RowCount(capacity: rows, exact: rows) }
  /// At most so many rows; only the device knows how many.
  public static func atMost(_ rows: Int) -> RowCount { RowCount(capacity: rows, exact: nil) }
}

/// What a plan's memory is divided into.
struct PlanLayout {
  /// What the host notes of a plan; only host memory has it.
  let header: TensorView?
  let expertOffsets: TensorView
  let rowOfSlot: TensorView
  let details: Arena
  let prepared: Arena

  /// The sizes that a plan's memory depends on.
  struct Shape {
    /// e.
    var localExperts: Int
    /// K.
    var topK: Int
    /// Of the dispatcher's own part, per token.
    var details: ByteCount
    /// Of the backend's part, per token.
    var prepared: ByteCount

    /// The bytes of a plan, per token. What is prepared begins at an aligned byte behind the details.
    var byteCount: ByteCount {
      .part(byteCount: PlanHeader.byteCount) + .part(byteCount: (localExperts + 1) * 4)
        + .part(perItem: topK * 4) + details + ByteCount(fixed: Arena.alignment) + prepared
    }
  }

  /// Divides memory for a number of tokens.
  init(_ shape: Shape, numTokens: Int, in memory: Arena) throws(EngineError) {
    var arena = memory
    if case .host = memory.base {
      header = try arena.take([PlanHeader.fieldCount], .i64)
    } else {
      header = nil
    }
    expertOffsets = try arena.take([shape.localExperts + 1], .i32)
    rowOfSlot = try arena.take([numTokens, shape.topK], .i32)
    details = try arena.take(byteCount: shape.details.of(numTokens))
    prepared = try arena.take(byteCount: shape.prepared.of(numTokens))
  }
}
