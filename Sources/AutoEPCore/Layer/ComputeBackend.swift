import AutoEPSystem

/// The steps of an MoE layer on one device, one call per step, on buffers of that device.
///
/// Callers have checked shapes and dtypes; legend as in autoep.h. Outputs (`into`) are completely
/// overwritten. Sums are in f32 (f64 for f64 tensors), in a fixed order, and rounded once. A row index of -1, and
/// any other that is no row, is a slot without a row.
///
/// A backend of a device only enqueues the work. What is wrong with its data shows later: it throws
/// from a call after that one. Laws: `checkBackend`.
public protocol ComputeBackend: AnyObject, Sendable {
  /// Where its tensors are.
  var space: MemorySpace { get }
  /// Throws what earlier work has found wrong with its data, if it shows that late.
  func checkFaults() throws(EngineError)
  /// What its work is enqueued on, for transports that enqueue theirs behind it.
  var queue: WorkQueue { get }

  // MARK: Routing

  /// logits = x · routerᵀ; a row's logits do not depend on where it stands.
  func routerLogits(_ x: TensorView, router: TensorView, into logits: TensorView)
    throws(EngineError)

  /// Chooses K experts per token, and counts tokens if asked; throws `.invalidArgument` naming token
  /// and expert for a logit that is NaN or +inf, and for a row without a finite one.
  func route(
    _ configuration: RouteConfiguration, logits: TensorView, selectionBias: TensorView?,
    topkIdx: TensorView, topkWeights: TensorView, tokensPerExpert: TensorView?
  ) throws(EngineError)

  /// The gradient to the logits; an index outside [0, E) is bad data.
  func routeBackward(
    _ configuration: RouteConfiguration, logits: TensorView, topkIdx: TensorView,
    gradTopkWeights: TensorView, into gradLogits: TensorView
  ) throws(EngineError)

  /// Mean over tokens of logsumexp(logits)².
  func routerZLoss(logits: TensorView, into loss: TensorView) throws(EngineError)

  /// The gradient of the z-loss to the logits.
  func routerZLossBackward(
    logits: TensorView, gradLoss: TensorView, into gradLogits: TensorView
  ) throws(EngineError)

  /// y = x times uniform noise in [1 - epsilon, 1 + epsilon], a function of seed and index.
  func jitter(
    _ x: TensorView, epsilon: Double, seed: UInt64, into y: TensorView
  ) throws(EngineError)

  // MARK: Permutation

  /// Stable counting sort of the slots by expert. -1 is no expert; any other index outside [0, numExperts) is bad
  /// data, and its slot gets no row.
  func sort(
    _ topkIdx: TensorView, numExperts: Int, into sort: SlotSort, _ arena: inout Arena
  ) throws(EngineError)

  /// Bytes that `sort` takes from its arena.
  func sortScratchBytes(numExperts: Int) -> Int

  /// Throws where a row_of_slot `[T,K]` names what is no row, or, if rows must be distinct, one row twice; a backend
  /// whose data the host cannot read does not tell.
  func check(rowOfSlot: TensorView, rowCount: Int, areDistinct: Bool) throws(EngineError)

  /// rows[rowOfSlot[t,k]] = topkWeights[t,k] · x[t]; no weights: a copy. Rows that no slot has stay as they are.
  func permute(
    _ x: TensorView, rowOfSlot: TensorView, weights topkWeights: TensorView?, into rows: TensorView
  ) throws(EngineError)

  /// y[t] = Σ_k topkWeights[t,k] · rows[rowOfSlot[t,k]] in k order; no weights: a plain sum.
  func unpermute(
    _ rows: TensorView, rowOfSlot: TensorView, weights topkWeights: TensorView?, into y: TensorView
  ) throws(EngineError)

  /// products[t,k] = ⟨x[t], rows[rowOfSlot[t,k]]⟩, and 0 for a slot without a row.
  func slotDot(
    _ x: TensorView, _ rows: TensorView, rowOfSlot: TensorView, into products: TensorView
  ) throws(EngineError)

  /// rowValues[rowOfSlot[t,k]] = values[t,k], from `[T,K]` to `[R,1]` in the type of sums.
  func scatterToRows(_ values: TensorView, rowOfSlot: TensorView, into rowValues: TensorView)
    throws(EngineError)

  /// values[t,k] = Σ_i partials[rowOfSlot[t,k],i] in order, from `[R,n]` in the type of sums to `[T,K]`; 0 for a slot
  /// without a row.
  func gatherFromRows(_ partials: TensorView, rowOfSlot: TensorView, into values: TensorView)
    throws(EngineError)

  /// sums[r] = Σ_i partials[r,i] in order, from `[R,n]` to `[R,1]`; the sums may be the partials' memory if n is 1.
  func sumPartials(_ partials: TensorView, into sums: TensorView) throws(EngineError)

  /// products[r] = ⟨left[r], right[r]⟩ for the rows in use, `[R,1]` in the type of sums.
  func rowDot(
    _ left: ExpertRows, _ right: ExpertRows, groups: RowGroups, into products: ExpertRows
  ) throws(EngineError)

  // MARK: Rows of other ranks

  /// places[r] = where the r-th row in expert order stands among those that arrive: `[R]` i32. Rows arrive by source
  /// rank, then expert; expert order is by expert, then source rank.
  ///
  /// - Parameter received: Rows that each rank sends to each of this rank's experts, `[P,e]` i32; they sum to R.
  func arrivalPlaces(received: TensorView, into places: TensorView) throws(EngineError)

  /// The numbers of an i32 tensor. A device's come when all work before has ended: the caller waits for it.
  func numbers(of tensor: TensorView) throws(EngineError) -> [Int32]

  /// Sets the numbers of an i32 tensor, behind the work before.
  func store(_ numbers: [Int32], in tensor: TensorView) throws(EngineError)

  // MARK: Products

  /// Whether products read and write rows in any placement. Where not, rows that are not in order are copied first.
  var readsPlacedRows: Bool { get }

  /// The bytes of what `prepare` notes for a layer's products.
  func preparedBytes(_ configuration: ExpertsConfiguration, localExperts: Int) -> ByteCount

  /// Fills `groups.prepared`, from its offsets, with what the products of a pass share.
  func prepare(_ groups: RowGroups, _ configuration: ExpertsConfiguration, rowsCapacity: Int)
    throws(EngineError)

  /// out[r] = rows[r] · W[group of r] (+ bias of the group). A row's result does not depend on
  /// where it stands.
  func groupedGEMM(
    _ rows: ExpertRows, weights: TensorView, layout: WeightLayout, bias: TensorView?,
    groups: RowGroups, into out: ExpertRows
  ) throws(EngineError)

  /// For each group, Σ over its rows of gradOut[r] ⊗ rows[r]; an empty group gets zeros.
  ///
  /// - Parameter gradWeights: Of the rows' type, or f32; added to if `accumulate`.
  func groupedGEMMWeightGradient(
    gradOut: ExpertRows, rows: ExpertRows, layout: WeightLayout, groups: RowGroups,
    into gradWeights: TensorView, accumulate: Bool
  ) throws(EngineError)

  /// For each group, Σ over its rows of weights[r] · rows[r]; no weights: a plain sum. The gradient of a bias.
  ///
  /// - Parameters:
  ///   - weights: `[R,1]` in the type of sums.
  ///   - sums: Of the rows' type, or f32; added to if `accumulate`.
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

  /// The gradient of `activate`, with a weight s per row; see `ActivationGradient`.
  func activateBackward(
    _ configuration: ExpertsConfiguration, groups: RowGroups, _ call: ActivationGradient
  ) throws(EngineError)

  // MARK: Experts

  /// The experts of a rank, forward: gate/up grouped GEMM, activation, down grouped GEMM. The default composes the
  /// steps above.
  ///
  /// - Parameters:
  ///   - rows: `[R,H]`. May be in the memory of `results`.
  ///   - hidden: `[R,G]` out, in expert order: the pre-activation.
  ///   - results: `[R,H]` out.
  func expertsForward(
    _ experts: ExpertsCall, rows: ExpertRows, hidden: TensorView, into results: ExpertRows,
    _ arena: inout Arena
  ) throws(EngineError)

  /// Bytes that `expertsForward` takes from its arena.
  func expertsForwardBytes(_ configuration: ExpertsConfiguration, rowsCapacity: Int) -> Int

  /// From the gradient of the experts' outputs to that of their inputs, and to the gradients of all weights but
  /// gate/up's, in whose memory arguments may be. The default composes the steps above.
  ///
  /// - Returns: The parts `[R,m]` of the dots, in their memory.
  func expertsBackward(
    _ experts: ExpertsCall, _ call: ExpertsGradient
  ) throws(EngineError) -> TensorView?

  /// n: the most parts per row whose sum is the gradient of the row's weight.
  func dotParts(_ configuration: ExpertsConfiguration) -> Int

  /// The gradient of gate/up's weights from that of the pre-activation. The default composes the steps above.
  ///
  /// - Parameters:
  ///   - rows: `[R,H]`, what the experts' forward read.
  ///   - room: `[R,H]`, for rows that have to be copied; nil where `readsPlacedRows`.
  ///   - gradHidden: `[R,G]`.
  func gateUpGradient(
    _ experts: ExpertsCall, rows: ExpertRows, room: TensorView?, gradHidden: TensorView,
    into gradGateUp: TensorView, accumulate: Bool, _ arena: inout Arena
  ) throws(EngineError)

  /// Bytes that `gateUpGradient` takes from its arena.
  func gateUpGradientBytes(_ configuration: ExpertsConfiguration, rowsCapacity: Int) -> Int
}

/// What the work of a backend is enqueued on.
public enum WorkQueue: Sendable, Equatable {
  /// The calling thread: results are there when a call returns.
  case host
  /// A stream of a device, by its handle.
  case stream(UInt)
}

/// What a sort of slots gives.
public struct SlotSort {
  /// First row of each expert, and then the number of rows: `[E+1]` i32; nil: not wanted, like those that follow.
  public let offsets: TensorView?
  /// Row of each slot, `[T,K]` i32; -1 for a slot without one.
  public let rowOfSlot: TensorView
  /// Slot of each row, `[T·K]` i32.
  public let slotOfRow: TensorView?
  /// Slots of each expert, `[E]` i32.
  public let tokensPerExpert: TensorView?

  /// Gathers the outputs.
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

/// The tensors of an activation's backward: with A the activation of a row of `hidden`, d the gradient of A, and s
/// the row's weight (1 without weights),
/// gradHidden = s · d · A', activated = s · A, dots = ⟨d, A⟩ (+ ⟨gradRows, the group's downBias⟩).
public struct ActivationGradient {
  /// `[R,G]`.
  public let hidden: TensorView
  /// d, `[R,F]`.
  public let gradOut: TensorView
  /// s, `[R,1]` in the type of sums, or nil.
  public let rowWeights: ExpertRows?
  /// `[R,H]`, the gradient of the experts' outputs, of which `downBias` is a part.
  public let gradRows: ExpertRows?
  /// `[e,H]` or nil.
  public let downBias: TensorView?
  /// `[R,G]` out; may be `hidden`'s memory.
  public let gradHidden: TensorView
  /// `[R,F]` out, or nil; may be `gradOut`'s memory.
  public let activated: TensorView?
  /// `[R,1]` out in the type of sums, or nil.
  public let dots: ExpertRows?

  /// Gathers the tensors.
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
