import AutoEPCore
import AutoEPSystem

/// A dispatcher with one defect; everything else calls `base`.
struct WrongDispatcher: TokenDispatcher {
  enum Defect: CaseIterable {
    case negatesAToken
    case swapsTwoRows
    case forgetsANumber
    case countsTrafficTwice
    case asksForTooFewBytes
    case asksForTooSmallAPlan
    case hidesWrongChoices
  }

  /// Parts of the name and the message of the law that must detect a defect.
  static func symptom(of defect: Defect) -> (law: String, text: String) {
    switch defect {
    case .negatesAToken: ("a pass gives", "y of rank 0")
    case .swapsTwoRows: ("ExpertsLayer.dispatch", "rows of rank 0")
    case .forgetsANumber: ("sendValues", "numbers back at rank 0")
    case .countsTrafficTwice: ("traffic", "but 23 arrive")
    case .asksForTooFewBytes: ("dispatch and combine", "arena of")
    case .asksForTooSmallAPlan: ("a rerun", "arena of")
    case .hidesWrongChoices: ("plan: a wrong", "expected an error, but none was thrown")
    }
  }

  let base: any TokenDispatcher
  let defect: Defect

  var experts: Range<Int> { base.experts }
  var planBytes: ByteCount {
    guard defect == .asksForTooSmallAPlan else { return base.planBytes }
    return ByteCount(fixed: 64, perItem: base.planBytes.perItem)
  }
  var delivery: Delivery { base.delivery }

  func planScratchBytes(numTokens: Int) -> Int { base.planScratchBytes(numTokens: numTokens) }
  func openBytes(_ rows: RowCount) -> Int { base.openBytes(rows) }

  func exchangeBytes(numTokens: Int, _ rows: RowCount) -> Int {
    let bytes = base.exchangeBytes(numTokens: numTokens, rows)
    return defect == .asksForTooFewBytes ? max(bytes - 64, 0) : bytes
  }

  func plan(
    _ topkIdx: TensorView, counts: PlanCounts, in memory: Arena, _ arena: inout Arena
  ) throws(EngineError) -> RowCount {
    if defect == .hidesWrongChoices, topkIdx.dtype == .i64 {
      for slot in 0..<topkIdx.elementCount where unsafe topkIdx.load(Int64.self, at: slot) < -1 {
        unsafe topkIdx.store(Int64(-1), at: slot)
      }
    }
    return try base.plan(topkIdx, counts: counts, in: memory, &arena)
  }

  func open(
    _ memory: Arena, numTokens: Int, rowCount: RowCount, _ arena: inout Arena
  ) throws(EngineError) -> DispatchPlan {
    try base.open(memory, numTokens: numTokens, rowCount: rowCount, &arena)
  }

  func dispatch(
    _ x: TensorView, weights: TensorView?, _ plan: DispatchPlan, room: TensorView,
    _ arena: inout Arena
  ) throws(EngineError) -> ExpertRows {
    let rows = try base.dispatch(x, weights: weights, plan, room: room, &arena)
    guard defect == .swapsTwoRows, case .indexed = rows.placement, room.shape[0] > 1 else {
      return rows
    }
    swap(rows.tensor, 0, rows.tensor.shape[0] - 1)
    return rows
  }

  func combine(
    _ rows: TensorView, weights: TensorView?, _ plan: DispatchPlan, into y: TensorView?,
    dots: SlotDots?, _ arena: inout Arena
  ) throws(EngineError) {
    try base.combine(rows, weights: weights, plan, into: y, dots: dots, &arena)
    guard defect == .negatesAToken, let y, y.elementCount > 0 else { return }
    for column in 0..<y.shape[1] { negate(y, at: column) }
  }

  func sendValues(
    _ values: TensorView, _ plan: DispatchPlan, into rows: TensorView, _ arena: inout Arena
  ) throws(EngineError) {
    try base.sendValues(values, plan, into: rows, &arena)
  }

  func sendBack(
    _ partials: TensorView, _ plan: DispatchPlan, into values: TensorView, _ arena: inout Arena
  ) throws(EngineError) {
    try base.sendBack(partials, plan, into: values, &arena)
    guard defect == .forgetsANumber, values.elementCount > 0 else { return }
    unsafe values.dtype == .f64
      ? values.store(Double(0), at: 0) : values.store(Float(0), at: 0)
  }

  func traffic(_ plan: DispatchPlan) -> DispatchTraffic {
    var traffic = base.traffic(plan)
    if defect == .countsTrafficTwice { traffic.received *= 2 }
    return traffic
  }

  private func negate(_ tensor: TensorView, at index: Int) {
    if tensor.dtype == .f64 {
      unsafe tensor.store(-tensor.load(Double.self, at: index), at: index)
    } else {
      unsafe tensor.store(-tensor.load(Float.self, at: index), at: index)
    }
  }

  private func swap(_ rows: TensorView, _ first: Int, _ second: Int) {
    let count = rows.shape[1] * rows.dtype.byteCount
    let bytes = TensorView(rows.storage, shape: [rows.byteCount / 4], dtype: .i32)
    for word in 0..<count / 4 {
      let (left, right) = (first * count / 4 + word, second * count / 4 + word)
      let value = unsafe bytes.load(Int32.self, at: left)
      unsafe bytes.store(bytes.load(Int32.self, at: right), at: left)
      unsafe bytes.store(value, at: right)
    }
  }
}
