import AutoEPSystem

/// Where the row of each slot goes, as a dispatcher decides it for one `topk_idx`. Lives in memory of the caller, on
/// the backend's device.
///
/// All dispatchers share these fields; `details` belongs to the dispatcher.
public struct DispatchPlan {
  /// T, the tokens of this rank.
  public let numTokens: Int
  /// K, the experts per token.
  public let topK: Int
  /// R, as far as the host knows it.
  public let rowCount: RowCount
  /// The rows of this rank's experts, `[e+1]` i32.
  public let groups: RowGroups
  /// The row of each slot among those that this rank sends, `[T,K]` i32; -1 for a slot without an expert. If tokens are
  /// sent, `[T,P]`: a slot is then a pair of a token and a rank, and -1 if the token does not go there.
  public let rowOfSlot: TensorView
  /// How rows lie in the tensors that this rank's experts read and write.
  public let placement: ExpertRows.Placement
  /// The dispatcher's own part of the memory.
  let details: Arena
  /// How rows travel; nil unless `TokenDispatcher.delivery` is rows.
  let route: RowRoute?
  /// The tokens that arrive and their slots; nil unless `TokenDispatcher.delivery` is tokens.
  let arrived: ArrivedTokens?

  /// Rows that tensors must have room for.
  public var rowsCapacity: Int { rowCount.capacity }

  /// R; nil where only the device knows it.
  public var rowsInUse: Int? { groups.rowCount }
}

/// The number of rows, as far as the host knows it.
public struct RowCount: Sendable, Equatable {
  /// The rows that tensors must have room for.
  public let capacity: Int
  /// R; nil where only the device knows it.
  public let exact: Int?
  /// A, the tokens that arrive from all ranks; 0 unless `TokenDispatcher.delivery` is tokens.
  public let tokens: Int
  /// The number of the plan in this process, by which its splits are found; 0 if it has none.
  public let plan: Int

  /// Combines the counts of a plan.
  public init(capacity: Int, exact: Int?, tokens: Int = 0, plan: Int = 0) {
    (self.capacity, self.exact, self.tokens, self.plan) = (capacity, exact, tokens, plan)
  }

  /// Exactly `rows` rows, made from `tokens` tokens that arrive.
  public static func exact(_ rows: Int, tokens: Int = 0, plan: Int = 0) -> RowCount {
    RowCount(capacity: rows, exact: rows, tokens: tokens, plan: plan)
  }
  /// At most `rows` rows; only the device knows how many.
  public static func atMost(_ rows: Int) -> RowCount {
    RowCount(capacity: rows, exact: nil)
  }
}

/// The parts of a plan's memory.
struct PlanLayout {
  /// The host's notes about the plan; nil in device memory.
  let header: TensorView?
  let expertOffsets: TensorView
  let rowOfSlot: TensorView
  let details: Arena
  let prepared: Arena

  /// The sizes that determine the layout.
  struct Shape {
    /// e, the experts of this rank.
    var localExperts: Int
    /// The slots per token: K, or P if tokens are sent.
    var topK: Int
    /// The bytes of the dispatcher's part, per token.
    var details: ByteCount
    /// The bytes of the backend's part, per token.
    var prepared: ByteCount

    /// The bytes of a plan, per token. What is prepared begins at an aligned byte behind the details.
    var byteCount: ByteCount {
      .part(byteCount: PlanHeader.byteCount) + .part(byteCount: (localExperts + 1) * 4)
        + .part(perItem: topK * 4) + details + ByteCount(fixed: Arena.alignment) + prepared
    }
  }

  /// Lays a plan for `numTokens` tokens out in `memory`.
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
