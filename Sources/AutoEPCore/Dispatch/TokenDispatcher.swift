import AutoEPSystem

/// Brings tokens to their experts and results back: the seam where the styles of expert parallelism differ.
///
/// All ranks call each function in the same order. `arena` is scratch memory of at least the bytes that the
/// dispatcher asks for; what a function takes of it is free again when it returns, but for `plan` and `open`.
/// Laws: `checkDispatcher`.
public protocol TokenDispatcher: Sendable {
  /// The experts of this rank.
  var experts: Range<Int> { get }
  /// The sizes of a plan's memory.
  var planBytes: ByteCount { get }
  /// Bytes of an arena that `plan` takes for T tokens.
  func planScratchBytes(numTokens: Int) -> Int
  /// Bytes of an arena that `open` takes, and keeps, for a plan of so many rows.
  func openBytes(rowsCapacity: Int) -> Int
  /// Bytes of an arena that each other function takes for T tokens and so many rows.
  func exchangeBytes(numTokens: Int, rowsCapacity: Int) -> Int
  /// Whether `dispatch` fills `room` with rows that came from other ranks: only a forward can do it again.
  var receivesRows: Bool { get }

  /// Decides where each slot of `topkIdx [T,K]` (i32 or i64) goes, and notes it in `memory`; -1 is no expert.
  ///
  /// Fails on every rank where a choice is neither an expert nor -1, if the backend can tell.
  ///
  func plan(
    _ topkIdx: TensorView, counts: PlanCounts, in memory: Arena, _ arena: inout Arena
  ) throws(EngineError) -> RowCount

  /// The plan that `plan` has made in `memory` for T tokens.
  ///
  /// - Parameter rowCount: What `plan` returned; where the memory is the host's, this is checked.
  func open(
    _ memory: Arena, numTokens: Int, rowCount: RowCount, _ arena: inout Arena
  ) throws(EngineError) -> DispatchPlan

  /// The rows of x `[T,H]` for this rank's experts, each multiplied by its weight of `weights [T,K]` where given.
  ///
  /// - Parameter room: `[R,H]` in the placement of the plan. Rows that have to be written are written there.
  func dispatch(
    _ x: TensorView, weights: TensorView?, _ plan: DispatchPlan, room: TensorView,
    _ arena: inout Arena
  ) throws(EngineError) -> ExpertRows

  /// y[t] = Σ_k weights[t,k] · the row of slot (t,k), in k order; no weights: a plain sum.
  ///
  /// - Parameters:
  ///   - rows: `[R,H]` in the placement of the plan.
  ///   - y: `[T,H]` out; nil where only `dots` are wanted.
  ///   - dots: Inner products of tokens and their rows to compute besides.
  func combine(
    _ rows: TensorView, weights: TensorView?, _ plan: DispatchPlan, into y: TensorView?,
    dots: SlotDots?, _ arena: inout Arena
  ) throws(EngineError)

  /// Brings a number of each slot, `[T,K]`, to its row: `[R,1]` in the placement of the plan, in the type of sums.
  func sendValues(
    _ values: TensorView, _ plan: DispatchPlan, into rows: TensorView, _ arena: inout Arena
  ) throws(EngineError)

  /// Brings the sums of numbers of each row, `[R,n]` in the type of sums, back to its slot: `[T,K]`; 0 for a slot
  /// without a row.
  func sendBack(
    _ partials: TensorView, _ plan: DispatchPlan, into values: TensorView, _ arena: inout Arena
  ) throws(EngineError)

  /// What a dispatch of the plan moves.
  func traffic(_ plan: DispatchPlan) -> DispatchTraffic
}

/// Counts that a plan writes besides; nil: not wanted.
public struct PlanCounts {
  /// Slots of this rank per expert, `[E]` i32.
  public let tokensPerExpert: TensorView?
  /// Rows of each of this rank's experts, `[e]` i32.
  public let rowsPerExpert: TensorView?

  /// Gathers the outputs.
  public init(tokensPerExpert: TensorView? = nil, rowsPerExpert: TensorView? = nil) {
    self.tokensPerExpert = tokensPerExpert
    self.rowsPerExpert = rowsPerExpert
  }
}

/// into[t,k] = ⟨tokens[t], the row of slot (t,k)⟩.
public struct SlotDots {
  /// `[T,H]`.
  let tokens: TensorView
  /// `[T,K]`, out.
  let into: TensorView
}

/// Rows that one dispatch moves.
public struct DispatchTraffic: Sendable, Equatable {
  /// Slots of this rank with a row; where only the device knows them, all slots.
  public var sent: Int
  /// Those of them that go to another rank.
  public var sentRemote: Int
  /// Rows that this rank's experts get.
  public var received: Int
  /// Those of them that come from another rank.
  public var receivedRemote: Int
}
