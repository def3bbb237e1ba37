import AutoEPSystem

/// Moves tokens to their experts and results back. The styles of expert parallelism differ only here.
///
/// All ranks call each function in the same order. `arena` is scratch memory of at least the bytes that the
/// dispatcher's size functions return. Each function frees its part when it returns, except `plan` and `open`.
/// Laws: `checkDispatcher`.
public protocol TokenDispatcher: Sendable {
  /// The experts of this rank.
  var experts: Range<Int> { get }
  /// The bytes of a plan.
  var planBytes: ByteCount { get }
  /// The arena bytes that `plan` needs for T tokens.
  func planScratchBytes(numTokens: Int) -> Int
  /// The arena bytes that `open` needs, and keeps, for a plan of these rows.
  func openBytes(_ rows: RowCount) -> Int
  /// The arena bytes that each other function needs for T tokens and these rows.
  func exchangeBytes(numTokens: Int, _ rows: RowCount) -> Int
  /// The kind of rows that `dispatch` delivers to this rank.
  var delivery: Delivery { get }

  /// Decides where each slot of `topkIdx [T,K]` (i32 or i64) goes, and writes the plan to `memory`; -1 is no expert.
  ///
  /// Throws on every rank if any rank has an index that is neither an expert nor -1 and its backend can check it.
  func plan(
    _ topkIdx: TensorView, counts: PlanCounts, in memory: Arena, _ arena: inout Arena
  ) throws(EngineError) -> RowCount

  /// Opens the plan that `plan` made in `memory` for T tokens.
  ///
  /// - Parameter rowCount: The result of `plan`; checked if the memory is the host's.
  func open(
    _ memory: Arena, numTokens: Int, rowCount: RowCount, _ arena: inout Arena
  ) throws(EngineError) -> DispatchPlan

  /// Returns the rows of x `[T,H]` for this rank's experts, multiplied by `weights [T,K]` if given.
  ///
  /// - Parameter room: Memory for what arrives: `[R,H]` in the placement of the plan, or `[A,H]` if tokens arrive and
  ///   `weights` is nil.
  func dispatch(
    _ x: TensorView, weights: TensorView?, _ plan: DispatchPlan, room: TensorView,
    _ arena: inout Arena
  ) throws(EngineError) -> ExpertRows

  /// y[t] = Σ_k weights[t,k] · the row of slot (t,k); without weights a plain sum. The sum is in k order, or per rank
  /// where tokens arrive.
  ///
  /// - Parameters:
  ///   - rows: `[R,H]` in the placement of the plan.
  ///   - y: `[T,H]` out; nil to compute `dots` only.
  ///   - dots: Inner products of tokens and their rows to compute as well; nil where tokens arrive.
  func combine(
    _ rows: TensorView, weights: TensorView?, _ plan: DispatchPlan, into y: TensorView?,
    dots: SlotDots?, _ arena: inout Arena
  ) throws(EngineError)

  /// Sends one number per slot, `[T,K]`, to the slot's row: `[R,1]` in the placement of the plan, in the sum type.
  func sendValues(
    _ values: TensorView, _ plan: DispatchPlan, into rows: TensorView, _ arena: inout Arena
  ) throws(EngineError)

  /// Sums n numbers per row, `[R,n]` in the sum type, and sends the sums to the rows' slots: `[T,K]`, 0 for a slot
  /// without a row.
  func sendBack(
    _ partials: TensorView, _ plan: DispatchPlan, into values: TensorView, _ arena: inout Arena
  ) throws(EngineError)

  /// The rows that one dispatch of the plan moves.
  func traffic(_ plan: DispatchPlan) -> DispatchTraffic
}

/// The kind of rows that a dispatch delivers to a rank. A forward saves the delivered rows for its backward.
public enum Delivery: Sendable {
  /// Nothing: the rows are copies of this rank's own tokens.
  case nothing
  /// A row for each slot of its experts, `[R,H]`.
  case rows
  /// Each token once, `[A,H]`, however many of this rank's experts it has; this rank makes its rows from them.
  case tokens
}

/// Counts that making a plan also writes; nil if not wanted.
public struct PlanCounts {
  /// Slots of this rank per expert, `[E]` i32.
  public let tokensPerExpert: TensorView?
  /// Rows of each of this rank's experts, `[e]` i32.
  public let rowsPerExpert: TensorView?

  /// Combines the outputs.
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

/// The rows that one dispatch moves; with `Delivery.tokens`, the tokens, each counted once per rank.
public struct DispatchTraffic: Sendable, Equatable {
  /// The slots of this rank that have a row; all slots if only the device knows.
  public var sent: Int
  /// The rows sent to other ranks.
  public var sentRemote: Int
  /// The rows that this rank's experts receive.
  public var received: Int
  /// The rows received from other ranks.
  public var receivedRemote: Int
}

extension DispatchTraffic {
  /// The traffic of these splits on a rank.
  init(_ splits: RowSplits, rank: Int) {
    self.init(
      sent: splits.sent, sentRemote: splits.sent - splits.sendRows[rank],
      received: splits.received, receivedRemote: splits.received - splits.receiveRows[rank])
  }
}
