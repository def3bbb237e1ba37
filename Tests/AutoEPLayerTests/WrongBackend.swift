import AutoEPCore
import AutoEPSystem

/// A backend with one wrong step; the other steps call `base`.
final class WrongBackend: ComputeBackend {
  enum Defect: CaseIterable {
    case sortIsNotStable
    case permuteWritesElsewhere
    case unpermuteReadsWeightsWithoutRow
    case slotDotIsOff
    case scatterIsOff
    case gatherTakesOnePart
    case sumOfPartsIsOff
    case rowDotIsOff
    case productIsOff
    case weightGradientForgetsToAdd
    case rowSumIgnoresWeights
    case activationIsOff
    case activationGradientIsOff
    case forwardIsOff
    case backwardIsOff
    case gateUpGradientIsOff
    case productDependsOnNeighbours
    case logitsAreOff
    case routeCountsWrongly
    case routeGradientIsOff
    case zLossIsOff
    case jitterChangesFromCallToCall
    case arrivalsAreOff
    case ranksAreOff
    case choicesAreOff
    case numbersAreForgotten
  }

  /// A part of the name of the law that must detect a defect.
  static func law(of defect: Defect) -> String {
    switch defect {
    case .sortIsNotStable: "sort: stable"
    case .permuteWritesElsewhere: "permute: each"
    case .unpermuteReadsWeightsWithoutRow: "unpermute"
    case .slotDotIsOff: "slotDot"
    case .scatterIsOff: "scatterToRows"
    case .gatherTakesOnePart: "gatherFromRows"
    case .sumOfPartsIsOff: "sumPartials"
    case .rowDotIsOff: "rowDot"
    case .productIsOff: "groupedGEMM: rows"
    case .weightGradientForgetsToAdd: "groupedGEMMWeightGradient"
    case .rowSumIgnoresWeights: "groupedRowSum"
    case .activationIsOff: "activate: the"
    case .activationGradientIsOff: "activateBackward"
    case .forwardIsOff: "expertsForward"
    case .backwardIsOff: "expertsBackward"
    case .gateUpGradientIsOff: "gateUpGradient"
    case .productDependsOnNeighbours: "groupedGEMM: a row's"
    case .logitsAreOff: "routerLogits: x"
    case .routeCountsWrongly: "route: the choice"
    case .routeGradientIsOff: "routeBackward"
    case .zLossIsOff: "routerZLoss"
    case .jitterChangesFromCallToCall: "jitter"
    case .arrivalsAreOff: "arrivalPlaces"
    case .ranksAreOff: "ranksOfTokens"
    case .choicesAreOff: "choicesOfRanks"
    case .numbersAreForgotten: "store and numbers"
    }
  }

  private let base: any ComputeBackend
  private let defect: Defect
  private let calls = Locked<UInt64>(0)

  init(_ base: any ComputeBackend, _ defect: Defect) {
    self.base = base
    self.defect = defect
  }

  /// Increases the first element of a result slightly if this step is the defective one.
  private func perturb(_ tensor: TensorView?, _ defects: Defect...) {
    guard defects.contains(defect), let tensor, tensor.elementCount > 0 else { return }
    switch tensor.dtype {
    case .f64: unsafe tensor.store(tensor.load(Double.self, at: 0) * 1.1 + 1e-3, at: 0)
    case .f32: unsafe tensor.store(tensor.load(Float.self, at: 0) * 1.1 + 1e-3, at: 0)
    case .i32: unsafe tensor.store(tensor.load(Int32.self, at: 0) + 1, at: 0)
    case .bf16, .f16, .i64: assertionFailure("the controls are of other types")
    }
  }

  var space: MemorySpace { base.space }
  var queue: WorkQueue { base.queue }
  var readsPlacedRows: Bool { base.readsPlacedRows }
  func checkFaults() throws(EngineError) { try base.checkFaults() }

  func routerLogits(
    _ x: TensorView, router: TensorView, into logits: TensorView
  ) throws(EngineError) {
    try base.routerLogits(x, router: router, into: logits)
    perturb(logits, .logitsAreOff)
  }

  func route(
    _ configuration: RouteConfiguration, logits: TensorView, selectionBias: TensorView?,
    topkIdx: TensorView, topkWeights: TensorView, tokensPerExpert: TensorView?
  ) throws(EngineError) {
    try base.route(
      configuration, logits: logits, selectionBias: selectionBias, topkIdx: topkIdx,
      topkWeights: topkWeights, tokensPerExpert: tokensPerExpert)
    perturb(tokensPerExpert, .routeCountsWrongly)
  }

  func routeBackward(
    _ configuration: RouteConfiguration, logits: TensorView, topkIdx: TensorView,
    gradTopkWeights: TensorView, into gradLogits: TensorView
  ) throws(EngineError) {
    try base.routeBackward(
      configuration, logits: logits, topkIdx: topkIdx, gradTopkWeights: gradTopkWeights,
      into: gradLogits)
    perturb(gradLogits, .routeGradientIsOff)
  }

  func routerZLoss(logits: TensorView, into loss: TensorView) throws(EngineError) {
    try base.routerZLoss(logits: logits, into: loss)
    perturb(loss, .zLossIsOff)
  }

  func routerZLossBackward(
    logits: TensorView, gradLoss: TensorView, into gradLogits: TensorView
  ) throws(EngineError) {
    try base.routerZLossBackward(logits: logits, gradLoss: gradLoss, into: gradLogits)
  }

  func jitter(
    _ x: TensorView, epsilon: Double, seed: UInt64, into y: TensorView
  ) throws(EngineError) {
    let call = calls.withLock { calls in
      calls += 1
      return calls
    }
    let isWrong = defect == .jitterChangesFromCallToCall
    try base.jitter(x, epsilon: epsilon, seed: isWrong ? seed + call : seed, into: y)
  }

  func sort(
    _ topkIdx: TensorView, numExperts: Int, into sort: SlotSort, _ arena: inout Arena
  ) throws(EngineError) {
    try base.sort(topkIdx, numExperts: numExperts, into: sort, &arena)
    guard defect == .sortIsNotStable, topkIdx.elementCount > 1, let slots = sort.slotOfRow else {
      return
    }
    let first = unsafe slots.load(Int32.self, at: 0)
    unsafe slots.store(slots.load(Int32.self, at: 1), at: 0)
    unsafe slots.store(first, at: 1)
  }

  func sortScratchBytes(numExperts: Int) -> Int { base.sortScratchBytes(numExperts: numExperts) }

  func check(rowOfSlot: TensorView, rowCount: Int, areDistinct: Bool) throws(EngineError) {
    try base.check(rowOfSlot: rowOfSlot, rowCount: rowCount, areDistinct: areDistinct)
  }

  func permute(
    _ x: TensorView, rowOfSlot: TensorView, weights: TensorView?, into rows: TensorView
  ) throws(EngineError) {
    try base.permute(x, rowOfSlot: rowOfSlot, weights: weights, into: rows)
    guard defect == .permuteWritesElsewhere, rows.elementCount > 0 else { return }
    // The first element after the rows.
    let beyond = TensorView(rows.storage, shape: [rows.elementCount + 1], dtype: rows.dtype)
    unsafe rows.dtype == .f64
      ? beyond.store(1.0, at: rows.elementCount) : beyond.store(Float(1), at: rows.elementCount)
  }

  func unpermute(
    _ rows: TensorView, rowOfSlot: TensorView, weights: TensorView?, into y: TensorView
  ) throws(EngineError) {
    try base.unpermute(rows, rowOfSlot: rowOfSlot, weights: weights, into: y)
    guard defect == .unpermuteReadsWeightsWithoutRow, let weights, y.dtype == .f64,
      weights.dtype == .f64
    else { return }
    for slot in 0..<weights.elementCount {
      let place = slot / weights.shape[1] * y.shape[1]
      // 0 times the weight is NaN if the weight is NaN.
      unsafe y.store(
        y.load(Double.self, at: place) + 0 * weights.load(Double.self, at: slot), at: place)
    }
  }

  func slotDot(
    _ x: TensorView, _ rows: TensorView, rowOfSlot: TensorView, into products: TensorView
  ) throws(EngineError) {
    try base.slotDot(x, rows, rowOfSlot: rowOfSlot, into: products)
    perturb(products.dtype == .bf16 ? nil : products, .slotDotIsOff)
  }

  func scatterToRows(
    _ values: TensorView, rowOfSlot: TensorView, into rowValues: TensorView
  ) throws(EngineError) {
    try base.scatterToRows(values, rowOfSlot: rowOfSlot, into: rowValues)
    perturb(rowValues, .scatterIsOff)
  }

  func gatherFromRows(
    _ partials: TensorView, rowOfSlot: TensorView, into values: TensorView
  ) throws(EngineError) {
    guard defect == .gatherTakesOnePart, partials.shape[1] > 1 else {
      return try base.gatherFromRows(partials, rowOfSlot: rowOfSlot, into: values)
    }
    let first = TensorView(
      partials.storage, shape: [partials.shape[0], 1], dtype: partials.dtype)
    try base.gatherFromRows(first, rowOfSlot: rowOfSlot, into: values)
  }

  func sumPartials(_ partials: TensorView, into sums: TensorView) throws(EngineError) {
    try base.sumPartials(partials, into: sums)
    perturb(sums, .sumOfPartsIsOff)
  }

  func rowDot(
    _ left: ExpertRows, _ right: ExpertRows, groups: RowGroups, into products: ExpertRows
  ) throws(EngineError) {
    try base.rowDot(left, right, groups: groups, into: products)
    perturb(products.tensor, .rowDotIsOff)
  }

  func ranksOfTokens(
    _ topkIdx: TensorView, numExperts: Int, into ranks: TensorView
  ) throws(EngineError) {
    try base.ranksOfTokens(topkIdx, numExperts: numExperts, into: ranks)
    perturb(ranks, .ranksAreOff)
  }

  func choicesOfRanks(
    _ topkIdx: TensorView, numExperts: Int, rowOfSlot: TensorView, into choices: TensorView
  ) throws(EngineError) {
    try base.choicesOfRanks(topkIdx, numExperts: numExperts, rowOfSlot: rowOfSlot, into: choices)
    perturb(choices, .choicesAreOff)
  }

  func arrivalPlaces(received: TensorView, into places: TensorView) throws(EngineError) {
    try base.arrivalPlaces(received: received, into: places)
    perturb(places, .arrivalsAreOff)
  }

  func numbers(of tensor: TensorView) throws(EngineError) -> [Int32] {
    try base.numbers(of: tensor)
  }

  func store(_ numbers: [Int32], in tensor: TensorView) throws(EngineError) {
    if defect != .numbersAreForgotten { try base.store(numbers, in: tensor) }
  }

  func preparedBytes(_ configuration: ExpertsConfiguration, localExperts: Int) -> ByteCount {
    base.preparedBytes(configuration, localExperts: localExperts)
  }

  func prepare(
    _ groups: RowGroups, _ configuration: ExpertsConfiguration, rowsCapacity: Int
  ) throws(EngineError) {
    try base.prepare(groups, configuration, rowsCapacity: rowsCapacity)
  }

  func groupedGEMM(
    _ rows: ExpertRows, weights: TensorView, layout: WeightLayout, bias: TensorView?,
    groups: RowGroups, into out: ExpertRows
  ) throws(EngineError) {
    try base.groupedGEMM(
      rows, weights: weights, layout: layout, bias: bias, groups: groups, into: out)
    perturb(out.tensor, .productIsOff)
    if rows.capacity > 1 { perturb(out.tensor, .productDependsOnNeighbours) }
  }

  func groupedGEMMWeightGradient(
    gradOut: ExpertRows, rows: ExpertRows, layout: WeightLayout, groups: RowGroups,
    into gradWeights: TensorView, accumulate: Bool
  ) throws(EngineError) {
    try base.groupedGEMMWeightGradient(
      gradOut: gradOut, rows: rows, layout: layout, groups: groups, into: gradWeights,
      accumulate: accumulate && defect != .weightGradientForgetsToAdd)
  }

  func groupedRowSum(
    _ rows: ExpertRows, weights: ExpertRows?, groups: RowGroups, into sums: TensorView,
    accumulate: Bool
  ) throws(EngineError) {
    try base.groupedRowSum(
      rows, weights: defect == .rowSumIgnoresWeights ? nil : weights, groups: groups, into: sums,
      accumulate: accumulate)
  }

  func activate(
    _ configuration: ExpertsConfiguration, hidden: TensorView, groups: RowGroups,
    into out: TensorView
  ) throws(EngineError) {
    try base.activate(configuration, hidden: hidden, groups: groups, into: out)
    perturb(out, .activationIsOff)
  }

  func activateBackward(
    _ configuration: ExpertsConfiguration, groups: RowGroups, _ call: ActivationGradient
  ) throws(EngineError) {
    try base.activateBackward(configuration, groups: groups, call)
    perturb(call.dots?.tensor, .activationGradientIsOff)
  }

  func expertsForward(
    _ experts: ExpertsCall, rows: ExpertRows, hidden: TensorView, into results: ExpertRows,
    _ arena: inout Arena
  ) throws(EngineError) {
    try base.expertsForward(experts, rows: rows, hidden: hidden, into: results, &arena)
    perturb(hidden, .forwardIsOff)
  }

  func expertsForwardBytes(_ configuration: ExpertsConfiguration, rowsCapacity: Int) -> Int {
    base.expertsForwardBytes(configuration, rowsCapacity: rowsCapacity)
  }

  func expertsBackward(
    _ experts: ExpertsCall, _ call: ExpertsGradient
  ) throws(EngineError) -> TensorView? {
    let dots = try base.expertsBackward(experts, call)
    perturb(dots, .backwardIsOff)
    return dots
  }

  func dotParts(_ configuration: ExpertsConfiguration) -> Int { base.dotParts(configuration) }

  func gateUpGradient(
    _ experts: ExpertsCall, rows: ExpertRows, room: TensorView?, gradHidden: TensorView,
    into gradGateUp: TensorView, accumulate: Bool, _ arena: inout Arena
  ) throws(EngineError) {
    try base.gateUpGradient(
      experts, rows: rows, room: room, gradHidden: gradHidden, into: gradGateUp,
      accumulate: accumulate, &arena)
    perturb(gradGateUp, .gateUpGradientIsOff)
  }

  func gateUpGradientBytes(_ configuration: ExpertsConfiguration, rowsCapacity: Int) -> Int {
    base.gateUpGradientBytes(configuration, rowsCapacity: rowsCapacity)
  }
}
