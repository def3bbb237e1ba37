import AutoEPSystem

/// The steps of an MoE layer on one device, one call per step, on buffers of that device.
///
/// Callers have checked shapes and dtypes; see autoep.h for the shape legend. Outputs (`into`) are completely
/// overwritten. Sums are in f32 (f64 for f64 tensors), in a fixed order, and rounded once. A row index that is -1
/// or out of range denotes a slot without a row.
///
/// A device's backend only enqueues its work. If the work finds invalid data, a later call throws the error.
/// Laws: `checkBackend`.
public protocol ComputeBackend: AnyObject, Sendable {
  /// The memory space of its tensors.
  var space: MemorySpace { get }
  /// Throws if earlier enqueued work has found invalid data.
  func checkFaults() throws(EngineError)
  /// The queue of its work; transports enqueue behind it.
  var queue: WorkQueue { get }

  // MARK: Routing

  /// logits = x · routerᵀ; a token's logits do not depend on its position.
  func routerLogits(_ x: TensorView, router: TensorView, into logits: TensorView)
    throws(EngineError)

  /// Chooses K experts per token, and counts the tokens per expert if asked. Throws `.invalidArgument` with the token
  /// and the expert for a logit that is NaN or +inf, and for a row without a finite logit.
  func route(
    _ configuration: RouteConfiguration, logits: TensorView, selectionBias: TensorView?,
    topkIdx: TensorView, topkWeights: TensorView, tokensPerExpert: TensorView?
  ) throws(EngineError)

  /// Computes the gradient of the logits; an index outside [0, E) is invalid data.
  func routeBackward(
    _ configuration: RouteConfiguration, logits: TensorView, topkIdx: TensorView,
    gradTopkWeights: TensorView, into gradLogits: TensorView
  ) throws(EngineError)

  /// Mean over tokens of logsumexp(logits)².
  func routerZLoss(logits: TensorView, into loss: TensorView) throws(EngineError)

  /// Computes the z-loss's gradient of the logits.
  func routerZLossBackward(
    logits: TensorView, gradLoss: TensorView, into gradLogits: TensorView
  ) throws(EngineError)

  /// y = x times uniform noise in [1 - epsilon, 1 + epsilon], a function of seed and index.
  func jitter(
    _ x: TensorView, epsilon: Double, seed: UInt64, into y: TensorView
  ) throws(EngineError)

  // MARK: Permutation

  /// Sorts the slots by expert with a stable counting sort. -1 is no expert; any other index outside
  /// [0, numExperts) is invalid data, and its slot gets no row.
  func sort(
    _ topkIdx: TensorView, numExperts: Int, into sort: SlotSort, _ arena: inout Arena
  ) throws(EngineError)

  /// The arena bytes that `sort` needs.
  func sortScratchBytes(numExperts: Int) -> Int

  /// Throws if an entry of `rowOfSlot [T,K]` is out of range or, with `areDistinct`, a row occurs twice. A backend
  /// whose data the host cannot read checks nothing.
  func check(rowOfSlot: TensorView, rowCount: Int, areDistinct: Bool) throws(EngineError)

  /// rows[rowOfSlot[t,k]] = topkWeights[t,k] · x[t]; without weights a copy. Rows without a slot stay unchanged.
  func permute(
    _ x: TensorView, rowOfSlot: TensorView, weights topkWeights: TensorView?, into rows: TensorView
  ) throws(EngineError)

  /// y[t] = Σ_k topkWeights[t,k] · rows[rowOfSlot[t,k]] in k order; without weights a plain sum.
  func unpermute(
    _ rows: TensorView, rowOfSlot: TensorView, weights topkWeights: TensorView?, into y: TensorView
  ) throws(EngineError)

  /// products[t,k] = ⟨x[t], rows[rowOfSlot[t,k]]⟩, and 0 for a slot without a row.
  func slotDot(
    _ x: TensorView, _ rows: TensorView, rowOfSlot: TensorView, into products: TensorView
  ) throws(EngineError)

  /// rowValues[rowOfSlot[t,k]] = values[t,k], from `[T,K]` to `[R,1]` in the sum type.
  func scatterToRows(_ values: TensorView, rowOfSlot: TensorView, into rowValues: TensorView)
    throws(EngineError)

  /// values[t,k] = Σ_i partials[rowOfSlot[t,k],i] in order, from `[R,n]` in the sum type to `[T,K]`; 0 for a slot
  /// without a row.
  func gatherFromRows(_ partials: TensorView, rowOfSlot: TensorView, into values: TensorView)
    throws(EngineError)

  /// sums[r] = Σ_i partials[r,i] in order, from `[R,n]` to `[R,1]`; if n is 1, `sums` may alias `partials`.
  func sumPartials(_ partials: TensorView, into sums: TensorView) throws(EngineError)

  /// products[r] = ⟨left[r], right[r]⟩ for the rows in use, `[R,1]` in the sum type.
  func rowDot(
    _ left: ExpertRows, _ right: ExpertRows, groups: RowGroups, into products: ExpertRows
  ) throws(EngineError)

  // MARK: Rows of other ranks

  /// places[r] = where the r-th row in expert order stands among those that arrive: `[R]` i32. Rows arrive by source
  /// rank, then expert; expert order is by expert, then source rank.
  ///
  /// - Parameter received: Rows that each rank sends to each of this rank's experts, `[P,e]` i32; they sum to R.
  func arrivalPlaces(received: TensorView, into places: TensorView) throws(EngineError)

  /// ranks[t,p] = p if one of token t's experts is on rank p of P, else -1: `[T,P]` i32. An index outside
  /// [0, numExperts) counts as no expert.
  func ranksOfTokens(
    _ topkIdx: TensorView, numExperts: Int, into ranks: TensorView
  ) throws(EngineError)

  /// choices[rowOfSlot[t,p],k] = topkIdx[t,k], counted from the first expert of rank p; -1 if the expert is on another
  /// rank, or the slot has none.
  ///
  /// - Parameters:
  ///   - rowOfSlot: `[T,P]` i32; -1 for a rank that the token does not go to.
  ///   - choices: `[n,K]` i32 out; rows that no slot has stay unchanged.
  func choicesOfRanks(
    _ topkIdx: TensorView, numExperts: Int, rowOfSlot: TensorView, into choices: TensorView
  ) throws(EngineError)

  /// Returns the numbers of an i32 tensor. If it is on a device, waits for all work that was enqueued before.
  func numbers(of tensor: TensorView) throws(EngineError) -> [Int32]

  /// Writes the numbers of an i32 tensor, after all work that was enqueued before.
  func store(_ numbers: [Int32], in tensor: TensorView) throws(EngineError)

  // MARK: Products

  /// Whether products read and write rows in any placement. If not, rows that are not in order are copied first.
  var readsPlacedRows: Bool { get }

  /// The bytes that `prepare` fills for a layer's products.
  func preparedBytes(_ configuration: ExpertsConfiguration, localExperts: Int) -> ByteCount

  /// Fills `groups.prepared` from the groups' offsets with data that the products of a pass share.
  func prepare(_ groups: RowGroups, _ configuration: ExpertsConfiguration, rowsCapacity: Int)
    throws(EngineError)

  /// out[r] = rows[r] · W[group of r] (+ bias of the group). A row's result does not depend on its position.
  func groupedGEMM(
    _ rows: ExpertRows, weights: TensorView, layout: WeightLayout, bias: TensorView?,
    groups: RowGroups, into out: ExpertRows
  ) throws(EngineError)

  /// For each group, Σ over its rows of gradOut[r] ⊗ rows[r]; an empty group gets zeros.
  ///
  /// - Parameter gradWeights: In the rows' dtype, or f32; added to if `accumulate`.
  func groupedGEMMWeightGradient(
    gradOut: ExpertRows, rows: ExpertRows, layout: WeightLayout, groups: RowGroups,
    into gradWeights: TensorView, accumulate: Bool
  ) throws(EngineError)

  /// For each group, Σ over its rows of weights[r] · rows[r]; without weights a plain sum. The gradient of a bias.
  ///
  /// - Parameters:
  ///   - weights: `[R,1]` in the sum type.
  ///   - sums: In the rows' dtype, or f32; added to if `accumulate`.
  func groupedRowSum(
    _ rows: ExpertRows, weights: ExpertRows?, groups: RowGroups, into sums: TensorView,
    accumulate: Bool
  ) throws(EngineError)

  // MARK: Activation

  /// out [R,F] = activation of hidden [R,G].
  func activate(
    _ configuration: ExpertsConfiguration, hidden: TensorView, groups: RowGroups,
    into out: TensorView
  ) throws(EngineError)

  /// Computes the gradient of `activate` with a weight s per row; see `ActivationGradient`.
  func activateBackward(
    _ configuration: ExpertsConfiguration, groups: RowGroups, _ call: ActivationGradient
  ) throws(EngineError)

  // MARK: Experts

  /// Computes a rank's experts: gate/up grouped GEMM, activation, down grouped GEMM. The default composes the
  /// steps above.
  ///
  /// - Parameters:
  ///   - rows: `[R,H]`; may alias `results`.
  ///   - hidden: `[R,G]` out, in expert order: the pre-activation.
  ///   - results: `[R,H]` out.
  func expertsForward(
    _ experts: ExpertsCall, rows: ExpertRows, hidden: TensorView, into results: ExpertRows,
    _ arena: inout Arena
  ) throws(EngineError)

  /// The arena bytes that `expertsForward` needs.
  func expertsForwardBytes(_ configuration: ExpertsConfiguration, rowsCapacity: Int) -> Int

  /// Computes the gradient of the experts' inputs and of all weights except gate/up's from that of their outputs.
  /// Arguments may alias gate/up's gradient. The default composes the steps above.
  ///
  /// - Returns: The parts `[R,m]` of the dots, in the memory of `call.dots`.
  func expertsBackward(
    _ experts: ExpertsCall, _ call: ExpertsGradient
  ) throws(EngineError) -> TensorView?

  /// n, an upper bound of the parts per row. The gradient of a row's weight is their sum.
  func dotParts(_ configuration: ExpertsConfiguration) -> Int

  /// Computes the gradient of gate/up's weights from that of the pre-activation. The default composes the steps above.
  ///
  /// - Parameters:
  ///   - rows: `[R,H]`, the inputs of the experts' forward.
  ///   - room: `[R,H]` for rows that must be copied; nil if `readsPlacedRows`.
  ///   - gradHidden: `[R,G]`.
  func gateUpGradient(
    _ experts: ExpertsCall, rows: ExpertRows, room: TensorView?, gradHidden: TensorView,
    into gradGateUp: TensorView, accumulate: Bool, _ arena: inout Arena
  ) throws(EngineError)

  /// The arena bytes that `gateUpGradient` needs.
  func gateUpGradientBytes(_ configuration: ExpertsConfiguration, rowsCapacity: Int) -> Int
}

/// The queue on which a backend's work runs.
public enum WorkQueue: Sendable, Equatable {
  /// The calling thread: a call returns after its work is done.
  case host
  /// A device's stream, by its handle.
  case stream(UInt)

  /// The handle of the stream; nil for the host.
  package var stream: UInt? {
    guard case .stream(let handle) = self else { return nil }
    return handle
  }
}

/// The outputs of a sort of slots.
public struct SlotSort {
  /// The first row of each expert, then the number of rows: `[E+1]` i32; nil if not wanted, as for the others.
  public let offsets: TensorView?
  /// The row of each slot, `[T,K]` i32; -1 for a slot without one.
  public let rowOfSlot: TensorView
  /// The slot of each row, `[T·K]` i32.
  public let slotOfRow: TensorView?
  /// The number of slots of each expert, `[E]` i32.
  public let tokensPerExpert: TensorView?

  /// Combines the outputs.
  public init(
    offsets: TensorView?, rowOfSlot: TensorView, slotOfRow: TensorView?,
    tokensPerExpert: TensorView?
  ) {
    self.offsets = offsets
    self.rowOfSlot = rowOfSlot
    self.slotOfRow = slotOfRow
    self.tokensPerExpert = tokensPerExpert
  }
}

/// The tensors of an activation's backward. A is the activation of a row of `hidden`, d the gradient of A, and s the
/// row's weight (1 without weights):
/// gradHidden = s · d · A', activated = s · A, dots = ⟨d, A⟩ (+ ⟨gradRows, the group's downBias⟩).
public struct ActivationGradient {
  /// `[R,G]`.
  public let hidden: TensorView
  /// d, `[R,F]`.
  public let gradOut: TensorView
  /// s, `[R,1]` in the sum type, or nil.
  public let rowWeights: ExpertRows?
  /// `[R,H]`, the gradient of the experts' outputs; used with `downBias` only.
  public let gradRows: ExpertRows?
  /// `[e,H]` or nil.
  public let downBias: TensorView?
  /// `[R,G]` out; may alias `hidden`.
  public let gradHidden: TensorView
  /// `[R,F]` out, or nil; may alias `gradOut`.
  public let activated: TensorView?
  /// `[R,1]` out in the sum type, or nil.
  public let dots: ExpertRows?

  /// Combines the tensors.
  public init(
    hidden: TensorView, gradOut: TensorView, rowWeights: ExpertRows? = nil,
    gradRows: ExpertRows? = nil, downBias: TensorView? = nil, gradHidden: TensorView,
    activated: TensorView? = nil, dots: ExpertRows? = nil
  ) {
    self.hidden = hidden
    self.gradOut = gradOut
    self.rowWeights = rowWeights
    self.gradRows = gradRows
    self.downBias = downBias
    self.gradHidden = gradHidden
    self.activated = activated
    self.dots = dots
  }
}
