import AutoEPSystem

/// Which buffers a forward saves, and which memory forward and backward use as scratch.
extension ExpertsLayer {
  /// The bytes of `saved`, per row.
  public var savedBytesOfRows: ByteCount {
    .part(perItem: configuration.gateUpSize * configuration.dtype.byteCount)
      + (dispatcher.delivery == .rows ? inputBytes : ByteCount())
  }

  /// The further bytes of `saved`, per token that arrives.
  public var savedBytesOfTokens: ByteCount {
    dispatcher.delivery == .tokens ? inputBytes : ByteCount()
  }

  /// The bytes of `saved`.
  public func savedBytes(_ rows: RowCount) -> Int {
    savedBytesOfRows.of(rows.capacity) + savedBytesOfTokens.of(rows.tokens)
  }

  private var inputBytes: ByteCount {
    .part(perItem: configuration.hiddenSize * configuration.dtype.byteCount)
  }

  /// Whether the backward reads x, to copy rows again or for the gradient of weights that multiply the input.
  public var backwardReadsX: Bool {
    dispatcher.delivery == .nothing || configuration.applyWeights == .before
  }

  /// The arena bytes that `forward` needs besides `openBytes`.
  public func forwardBytes(numTokens: Int, _ rows: RowCount) -> Int {
    Arena.footprint([rows.capacity, configuration.hiddenSize], configuration.dtype)
      + max(
        backend.expertsForwardBytes(configuration, rowsCapacity: rows.capacity),
        dispatcher.exchangeBytes(numTokens: numTokens, rows))
  }

  /// The properties that decide how much scratch memory a backward needs.
  public struct BackwardNeeds {
    /// Whether `saved` may be used as scratch.
    public var overwritesSaved: Bool
    /// Whether gate/up's weight gradient is overwritten rather than added to, so that its memory can serve as scratch.
    public var lendsGateUp: Bool
    /// Whether the gradient of x is written.
    public var lendsGradX: Bool

    /// Combines the properties.
    public init(overwritesSaved: Bool, lendsGateUp: Bool, lendsGradX: Bool) {
      self.overwritesSaved = overwritesSaved
      self.lendsGateUp = lendsGateUp
      self.lendsGradX = lendsGradX
    }
  }

  /// The arena bytes that `backward` needs besides `openBytes`.
  public func backwardBytes(
    numTokens: Int, _ rows: RowCount, _ needs: BackwardNeeds
  ) throws(EngineError) -> Int {
    var memory = LendingArena(
      own: Arena(base: .nowhere, byteCount: .max),
      gateUp: needs.lendsGateUp ? Arena(base: .nowhere, byteCount: gateUpBytes) : nil,
      gradX: needs.lendsGradX ? Arena(base: .nowhere, byteCount: gradXBytes(numTokens)) : nil)
    _ = try BackwardMemory(
      self, numTokens: numTokens, rows, overwritesSaved: needs.overwritesSaved, &memory)
    return memory.own.used
      + backend.gateUpGradientBytes(configuration, rowsCapacity: rows.capacity)
  }

  func backwardMemory(
    _ plan: DispatchPlan, _ pass: Backward, _ arena: inout Arena
  ) throws(EngineError) -> BackwardMemory {
    let gateUp = pass.gradients.accumulate ? nil : pass.gradients.gateUp
    var memory = LendingArena(
      own: arena, gateUp: gateUp.map { .lent(by: $0, byteCount: gateUpBytes) },
      gradX: pass.gradX.map { .lent(by: $0, byteCount: gradXBytes(plan.numTokens)) })
    defer { arena = memory.own }
    return try BackwardMemory(
      self, numTokens: plan.numTokens, plan.rowCount, overwritesSaved: pass.overwritesSaved, &memory
    )
  }

  /// The usable bytes of gate/up's weight gradient; that of Int.max bytes if its size overflows (such weights cannot
  /// exist).
  private var gateUpBytes: Int {
    let (bytes, overflows) = (dispatcher.experts.count * configuration.gateUpSize)
      .multipliedReportingOverflow(by: configuration.hiddenSize * configuration.dtype.byteCount)
    return Arena.lentByteCount(overflows ? .max : bytes)
  }

  private func gradXBytes(_ numTokens: Int) -> Int {
    Arena.lentByteCount(numTokens * configuration.hiddenSize * configuration.dtype.byteCount)
  }
}

extension ExpertsLayer {
  /// The tensors that a forward saves for the backward.
  struct Saved {
    /// `[R,G]`, the pre-activation.
    let hidden: TensorView
    /// The rows that arrived from all ranks, `[R,H]` in the placement of the plan, or the tokens, `[A,H]`; nil if
    /// nothing arrives.
    let inputs: TensorView?

    init(_ layer: ExpertsLayer, _ plan: DispatchPlan, in memory: Arena) throws(EngineError) {
      let configuration = layer.configuration
      var memory = memory
      hidden = try memory.take(
        [plan.rowsCapacity, configuration.gateUpSize], configuration.dtype)
      let arriving: Int? =
        switch layer.dispatcher.delivery {
        case .nothing: nil
        case .rows: plan.rowsCapacity
        case .tokens: plan.rowCount.tokens
        }
      inputs = try arriving.map { (count) throws(EngineError) in
        try memory.take([count, configuration.hiddenSize], configuration.dtype)
      }
    }
  }
}

/// The scratch memory of a backward.
struct BackwardMemory {
  /// `[R,G]`; nil to use the memory of the saved pre-activation.
  let gradHidden: TensorView?
  /// `[R,H]`: scratch for the gradient of the outputs, then the gradient of the inputs, then the copied inputs.
  let gradInputs: TensorView
  /// `[A,H]`: the gradients of the outputs that arrive; nil unless tokens arrive.
  let arrived: TensorView?
  /// `[R,F]`.
  let activated: TensorView
  /// `[R,1]`; nil unless weights multiply the outputs.
  let rowWeights: TensorView?
  /// `[R,n]`; nil unless weights multiply the outputs.
  let dots: TensorView?
  /// The dispatcher's scratch before and after the experts; overlaps `activated`.
  private let exchange: Arena

  init(
    _ layer: ExpertsLayer, numTokens: Int, _ rowCount: RowCount, overwritesSaved: Bool,
    _ memory: inout LendingArena
  ) throws(EngineError) {
    let configuration = layer.configuration
    let rows = rowCount.capacity
    let dtype = configuration.dtype
    gradHidden =
      overwritesSaved ? nil : try memory.take([rows, configuration.gateUpSize], dtype, lender: nil)
    gradInputs = try memory.take(
      [rows, configuration.hiddenSize], dtype,
      lender: layer.copiesInputsAgain ? nil : \.gateUp)
    arrived =
      layer.dispatcher.delivery == .tokens
      ? try memory.take([rowCount.tokens, configuration.hiddenSize], dtype, lender: \.gateUp) : nil
    var sameMemory = memory
    activated = try memory.take([rows, configuration.ffnSize], dtype, lender: \.gateUp)
    exchange = try sameMemory.take(
      byteCount: layer.dispatcher.exchangeBytes(numTokens: numTokens, rowCount),
      lender: \.gateUp)
    memory.takeAsMuch(as: sameMemory)
    guard configuration.applyWeights == .after else {
      (rowWeights, dots) = (nil, nil)
      return
    }
    let parts = layer.backend.dotParts(configuration)
    rowWeights = try memory.take([rows, 1], dtype.sumType, lender: \.gradX)
    dots = try memory.take([rows, parts], dtype.sumType, lender: \.gradX)
  }

  /// Runs a step of the dispatcher on its scratch memory. `activated` overlaps it, so the dispatcher keeps nothing
  /// there across the experts' steps.
  func exchanging(_ body: (inout Arena) throws(EngineError) -> Void) throws(EngineError) {
    var arena = exchange
    try body(&arena)
  }
}

extension ExpertsLayer {
  /// Whether the gate/up gradient reads rows that have to be copied once more, and so needs room for them.
  fileprivate var copiesInputsAgain: Bool {
    // Rows that arrived are kept as the products read them.
    guard dispatcher.delivery != .rows else { return false }
    return !backend.readsPlacedRows || configuration.applyWeights == .before
  }
}

/// The caller's workspace, and the memory of outputs that are written later and can serve as scratch until then.
struct LendingArena {
  var own: Arena
  var gateUp: Arena?
  var gradX: Arena?

  /// Allocates from the lender's memory if it has room, else from the workspace.
  mutating func take(
    byteCount: Int, lender: WritableKeyPath<LendingArena, Arena?>?
  ) throws(EngineError) -> Arena {
    if let lender, var lent = self[keyPath: lender], byteCount <= lent.byteCount - lent.used {
      defer { self[keyPath: lender] = lent }
      return try lent.take(byteCount: byteCount)
    }
    return try own.take(byteCount: byteCount)
  }

  mutating func take(
    _ shape: [Int], _ dtype: DataType, lender: WritableKeyPath<LendingArena, Arena?>?
  ) throws(EngineError) -> TensorView {
    let part = try take(byteCount: shape.reduce(dtype.byteCount, *), lender: lender)
    return TensorView(part.base, shape: shape, dtype: dtype)
  }

  /// Marks as used all memory that `other`, a copy of this value, has allocated.
  mutating func takeAsMuch(as other: LendingArena) {
    own.keep(other.own.used)
    if let used = other.gateUp?.used { gateUp?.keep(used) }
    if let used = other.gradX?.used { gradX?.keep(used) }
  }
}

extension Arena {
  /// The usable bytes of an output's memory after aligning its start, at any address.
  static func lentByteCount(_ byteCount: Int) -> Int { max(byteCount - (alignment - 1), 0) }

  /// The aligned memory of an output.
  static func lent(by tensor: TensorView, byteCount: Int) -> Arena {
    Arena(base: tensor.storage.aligned(to: alignment), byteCount: byteCount)
  }
}
