import AutoEPSystem

/// Who owns which buffer of a pass: what a forward saves, and what it works in.
extension ExpertsLayer {
  /// Bytes of `saved`, per row.
  public var savedBytes: ByteCount {
    let dtype = configuration.dtype.byteCount
    let rows = ByteCount.part(perItem: configuration.hiddenSize * dtype)
    return .part(perItem: configuration.gateUpSize * dtype)
      + (dispatcher.receivesRows ? rows : ByteCount())
  }

  /// Whether the backward reads x: for rows that are copied from it again, or the gradient of weights on the input.
  public var backwardReadsX: Bool {
    !dispatcher.receivesRows || configuration.applyWeights == .before
  }

  /// Bytes of an arena that `forward` takes besides what opening the plan takes.
  public func forwardBytes(numTokens: Int, rowsCapacity: Int) -> Int {
    Arena.footprint([rowsCapacity, configuration.hiddenSize], configuration.dtype)
      + max(
        backend.expertsForwardBytes(configuration, rowsCapacity: rowsCapacity),
        dispatcher.exchangeBytes(numTokens: numTokens, rowsCapacity: rowsCapacity))
  }

  /// What decides how much memory a backward needs of its own.
  public struct BackwardNeeds {
    /// Whether `saved` may be worked in.
    public var overwritesSaved: Bool
    /// Whether the gradient of gate/up's weights is written and not added to, so that its memory is free before.
    public var lendsGateUp: Bool
    /// Whether the gradient of x is written.
    public var lendsGradX: Bool

    /// Gathers the answers.
    public init(overwritesSaved: Bool, lendsGateUp: Bool, lendsGradX: Bool) {
      self.overwritesSaved = overwritesSaved
      self.lendsGateUp = lendsGateUp
      self.lendsGradX = lendsGradX
    }
  }

  /// Bytes of an arena that `backward` takes besides what opening the plan takes.
  public func backwardBytes(
    numTokens: Int, rowsCapacity: Int, _ needs: BackwardNeeds
  ) throws(EngineError) -> Int {
    var memory = LendingArena(
      own: Arena(base: .nowhere, byteCount: .max),
      gateUp: needs.lendsGateUp ? Arena(base: .nowhere, byteCount: gateUpBytes) : nil,
      gradX: needs.lendsGradX ? Arena(base: .nowhere, byteCount: gradXBytes(numTokens)) : nil)
    _ = try BackwardMemory(
      self, numTokens: numTokens, rowsCapacity: rowsCapacity,
      overwritesSaved: needs.overwritesSaved, &memory)
    return memory.own.used
      + backend.gateUpGradientBytes(configuration, rowsCapacity: rowsCapacity)
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
      self, numTokens: plan.numTokens, rowsCapacity: plan.rowsCapacity,
      overwritesSaved: pass.overwritesSaved, &memory)
  }

  /// The bytes of gate/up's weights that can be lent; the most there can be where their number overflows, for such
  /// weights cannot exist.
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
  /// What a forward leaves for the backward.
  struct Saved {
    /// `[R,G]`, the pre-activation.
    let hidden: TensorView
    /// `[R,H]` in the order of their arrival, for rows that came from other ranks.
    let rows: TensorView?

    init(_ layer: ExpertsLayer, _ plan: DispatchPlan, in memory: Arena) throws(EngineError) {
      let configuration = layer.configuration
      var memory = memory
      hidden = try memory.take(
        [plan.rowsCapacity, configuration.gateUpSize], configuration.dtype)
      rows =
        layer.dispatcher.receivesRows
        ? try memory.take([plan.rowsCapacity, configuration.hiddenSize], configuration.dtype) : nil
    }
  }
}

/// What a backward works in.
struct BackwardMemory {
  /// `[R,G]`; nil: the memory of the pre-activation itself.
  let gradHidden: TensorView?
  /// `[R,H]`: room for the gradient of the outputs, later the gradient of the inputs, and then the copied inputs.
  let gradInputs: TensorView
  /// `[R,F]`.
  let activated: TensorView
  /// `[R,1]`, for weights that multiply the outputs.
  let rowWeights: TensorView?
  /// `[R,n]`, likewise.
  let dots: TensorView?
  /// What the dispatcher works in before and after the experts; the same memory as `activated`.
  private let exchange: Arena

  init(
    _ layer: ExpertsLayer, numTokens: Int, rowsCapacity rows: Int, overwritesSaved: Bool,
    _ memory: inout LendingArena
  ) throws(EngineError) {
    let configuration = layer.configuration
    let dtype = configuration.dtype
    gradHidden =
      overwritesSaved ? nil : try memory.take([rows, configuration.gateUpSize], dtype, lender: nil)
    gradInputs = try memory.take(
      [rows, configuration.hiddenSize], dtype,
      lender: layer.copiesInputsAgain ? nil : \.gateUp)
    var sameMemory = memory
    activated = try memory.take([rows, configuration.ffnSize], dtype, lender: \.gateUp)
    exchange = try sameMemory.take(
      byteCount: layer.dispatcher.exchangeBytes(numTokens: numTokens, rowsCapacity: rows),
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

  /// Runs a step of the dispatcher in the memory of exchanges. That of `activated` overlaps it: nothing is kept there
  /// across the experts' steps.
  func exchanging(_ body: (inout Arena) throws(EngineError) -> Void) throws(EngineError) {
    var arena = exchange
    try body(&arena)
  }
}

extension ExpertsLayer {
  /// Whether the gate/up gradient reads rows that have to be copied once more, and so needs room for them.
  fileprivate var copiesInputsAgain: Bool {
    // Rows that came from other ranks are kept as the products read them.
    guard !dispatcher.receivesRows else { return false }
    return !backend.readsPlacedRows || configuration.applyWeights == .before
  }
}

/// Memory of one's own, and that of outputs which are written later.
struct LendingArena {
  var own: Arena
  var gateUp: Arena?
  var gradX: Arena?

  /// A part of the lender's memory, or where that has no room, of one's own.
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

  /// Leaves what another took of the same memory taken too.
  mutating func takeAsMuch(as other: LendingArena) {
    own.keep(other.own.used)
    if let used = other.gateUp?.used { gateUp?.keep(used) }
    if let used = other.gradX?.used { gradX?.keep(used) }
  }
}

extension Arena {
  /// What is left of an output's memory behind its first aligned byte, wherever that is.
  static func lentByteCount(_ byteCount: Int) -> Int { max(byteCount - (alignment - 1), 0) }

  /// The memory of an output.
  static func lent(by tensor: TensorView, byteCount: Int) -> Arena {
    Arena(base: tensor.storage.aligned(to: alignment), byteCount: byteCount)
  }
}
