import AutoEPSystem

/// The steps of an MoE layer on one device, one call a step, on buffers of that device.
///
/// Callers have checked shapes and dtypes; legend as in autoep.h. Outputs (`into`) are completely
/// overwritten. Sums are in f32 (f64 for f64 tensors), in a fixed order, and rounded once.
///
/// A backend of another device only starts the work. What its data holds wrong shows later: it throws
/// from a call after that one.
public protocol ComputeBackend: AnyObject, Sendable {
  // MARK: Routing

  /// logits = x · routerᵀ; a row's logits do not depend on where it stands.
  func routerLogits(_ x: TensorView, router: TensorView, into logits: TensorView)
    throws(EngineError)

  /// Chooses K experts a token, and counts tokens if asked; throws `.invalidArgument` naming token
  /// and expert for a logit that is NaN or +inf, and for a row without a finite one.
  func route(
    _ configuration: RouteConfiguration, logits: TensorView, selectionBias: TensorView?,
    topkIdx: TensorView, topkWeights: TensorView, tokensPerExpert: TensorView?
  ) throws(EngineError)

  /// The gradient to the logits; throws for an index outside [0, E).
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

  /// Stable counting sort of the slots by expert; throws for an index outside [0, numExperts).
  func sortByExpert(
    topkIdx: TensorView, numExperts: Int, rowOfSlot: TensorView, tokensPerExpert: TensorView
  ) throws(EngineError)

  /// rows[rowOfSlot[t,k]] = weights[t,k] · x[t]; no weights: a copy. Throws for a row outside [0, N).
  func permute(
    _ x: TensorView, rowOfSlot: TensorView, weights: TensorView?, into rows: TensorView
  ) throws(EngineError)

  /// y[t] = Σ_k weights[t,k] · rows[rowOfSlot[t,k]] in k order; no weights: a plain sum.
  func unpermute(
    _ rows: TensorView, rowOfSlot: TensorView, weights: TensorView?, into y: TensorView
  ) throws(EngineError)

  /// gradWeights[t,k] = ⟨x[t], rows[rowOfSlot[t,k]]⟩.
  func slotDot(
    _ x: TensorView, _ rows: TensorView, rowOfSlot: TensorView, into gradWeights: TensorView
  ) throws(EngineError)

  // MARK: Grouped GEMM

  /// out[r] = rows[r] · W[group of r] (+ bias of the group). A row's result does not depend on
  /// where it stands. `rowsPerGroup` [E], i32 or i64, is in the backend's memory, as all tensors.
  func groupedGEMM(
    _ rows: TensorView, weights: TensorView, layout: WeightLayout, bias: TensorView?,
    rowsPerGroup: TensorView, into out: TensorView
  ) throws(EngineError)

  /// For each group, Σ over its rows of gradOut[r] ⊗ rows[r]; an empty group gets zeros.
  func groupedGEMMWeightGradient(
    gradOut: TensorView, rows: TensorView, layout: WeightLayout, rowsPerGroup: TensorView,
    into gradWeights: TensorView
  ) throws(EngineError)

  /// For each group, Σ over its rows of gradOut[r]: the gradient of a bias.
  func groupedRowSum(
    _ gradOut: TensorView, rowsPerGroup: TensorView, into sums: TensorView
  ) throws(EngineError)

  // MARK: Activation

  /// out [R,F] = activation of hidden [R,G].
  func activate(
    _ configuration: ExpertsConfiguration, hidden: TensorView, into out: TensorView
  ) throws(EngineError)

  /// gradHidden [R,G] from gradOut [R,F]; gradHidden may be gradOut's or hidden's memory only if
  /// G = F.
  func activateBackward(
    _ configuration: ExpertsConfiguration, hidden: TensorView, gradOut: TensorView,
    into gradHidden: TensorView
  ) throws(EngineError)
}

/// A backend in host memory, whose results are there when a call returns: what expert parallelism over
/// a transport needs.
public protocol HostBackend: ComputeBackend {
  /// The experts of a rank, forward: gate/up grouped GEMM, activation, down grouped GEMM.
  ///
  /// - Parameters:
  ///   - rows: `[R,H]`, in expert order.
  ///   - rowsPerExpert: `[e]` i32 or i64.
  ///   - hidden: `[R,G]` out: the pre-activation, for the backward.
  ///   - results: `[R,H]` out.
  func expertsForward(
    _ configuration: ExpertsConfiguration, _ weights: ExpertsWeights, rows: OrderedRows,
    rowsPerExpert: TensorView, hidden: TensorView, into results: OrderedRows
  ) throws(EngineError)

  /// Turns the gradient of the experts' results in `gradRows` into that of their rows, and makes those
  /// of the weights but gate/up's, in whose memory arguments may be.
  ///
  /// - Parameters:
  ///   - hidden: `[R,G]` from the forward.
  ///   - gradRows: `[R,H]`.
  ///   - gradHidden: `[R,G]` out: the gradient of `hidden`, whose memory it may be.
  ///   - activated: `[R,F]` to work in.
  func expertsBackward(
    _ configuration: ExpertsConfiguration, _ weights: ExpertsWeights, rowsPerExpert: TensorView,
    hidden: TensorView, gradRows: OrderedRows, gradHidden: TensorView, activated: TensorView,
    gradients: ExpertsGradients
  ) throws(EngineError)

  /// The gradient of gate/up's weights from that of the pre-activation, `[R,G]`, and the rows that the
  /// forward had.
  func gateUpGradient(
    _ configuration: ExpertsConfiguration, rows: OrderedRows, rowsPerExpert: TensorView,
    gradHidden: TensorView, into gradGateUp: TensorView
  ) throws(EngineError)
}

/// Rows of a matrix in the order that an index gives them.
public struct OrderedRows {
  /// `[R', width]`.
  public let tensor: TensorView
  /// `[R]` i32: row r is row `index[r]` of the tensor. Nil: as they stand.
  public let index: TensorView?

  /// Rows as an index orders them; nil for as they stand. Every index is a row of the tensor.
  public init(_ tensor: TensorView, index: TensorView? = nil) {
    self.tensor = tensor
    self.index = index
  }
}
