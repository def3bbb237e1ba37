import AutoEPCore
import AutoEPSystem

/// The backend in it, but for its products, which read and write rows in expert order only, as those of a device do.
final class OrderedBackend: ComputeBackend {
  private let base: any ComputeBackend

  init(_ base: any ComputeBackend) { self.base = base }

  var space: MemorySpace { base.space }
  var queue: WorkQueue { base.queue }
  var readsPlacedRows: Bool { false }
  func checkFaults() throws(EngineError) { try base.checkFaults() }

  func routerLogits(
    _ x: TensorView, router: TensorView, into logits: TensorView
  ) throws(EngineError) {
    try base.routerLogits(x, router: router, into: logits)
  }

  func route(
    _ configuration: RouteConfiguration, logits: TensorView, selectionBias: TensorView?,
    topkIdx: TensorView, topkWeights: TensorView, tokensPerExpert: TensorView?
  ) throws(EngineError) {
    try base.route(
      configuration, logits: logits, selectionBias: selectionBias, topkIdx: topkIdx,
      topkWeights: topkWeights, tokensPerExpert: tokensPerExpert)
  }

  func routeBackward(
    _ configuration: RouteConfiguration, logits: TensorView, topkIdx: TensorView,
    gradTopkWeights: TensorView, into gradLogits: TensorView
  ) throws(EngineError) {
    try base.routeBackward(
      configuration, logits: logits, topkIdx: topkIdx, gradTopkWeights: gradTopkWeights,
      into: gradLogits)
  }

  func routerZLoss(logits: TensorView, into loss: TensorView) throws(EngineError) {
    try base.routerZLoss(logits: logits, into: loss)
  }

  func routerZLossBackward(
    logits: TensorView, gradLoss: TensorView, into gradLogits: TensorView
  ) throws(EngineError) {
    try base.routerZLossBackward(logits: logits, gradLoss: gradLoss, into: gradLogits)
  }

  func jitter(
    _ x: TensorView, epsilon: Double, seed: UInt64, into y: TensorView
  ) throws(EngineError) {
    try base.jitter(x, epsilon: epsilon, seed: seed, into: y)
  }

  func sort(
    _ topkIdx: TensorView, numExperts: Int, into sort: SlotSort, _ arena: inout Arena
  ) throws(EngineError) {
    try base.sort(topkIdx, numExperts: numExperts, into: sort, &arena)
  }

  func sortScratchBytes(numExperts: Int) -> Int { base.sortScratchBytes(numExperts: numExperts) }

  func check(rowOfSlot: TensorView, rowCount: Int, areDistinct: Bool) throws(EngineError) {
    try base.check(rowOfSlot: rowOfSlot, rowCount: rowCount, areDistinct: areDistinct)
  }

  func permute(
    _ x: TensorView, rowOfSlot: TensorView, weights: TensorView?, into rows: TensorView
  ) throws(EngineError) {
    try base.permute(x, rowOfSlot: rowOfSlot, weights: weights, into: rows)
  }

  func unpermute(
    _ rows: TensorView, rowOfSlot: TensorView, weights: TensorView?, into y: TensorView
  ) throws(EngineError) {
    try base.unpermute(rows, rowOfSlot: rowOfSlot, weights: weights, into: y)
  }

  func slotDot(
    _ x: TensorView, _ rows: TensorView, rowOfSlot: TensorView, into products: TensorView
  ) throws(EngineError) {
    try base.slotDot(x, rows, rowOfSlot: rowOfSlot, into: products)
  }

  func scatterToRows(
    _ values: TensorView, rowOfSlot: TensorView, into rowValues: TensorView
  ) throws(EngineError) {
    try base.scatterToRows(values, rowOfSlot: rowOfSlot, into: rowValues)
  }

  func gatherFromRows(
    _ partials: TensorView, rowOfSlot: TensorView, into values: TensorView
  ) throws(EngineError) {
    try base.gatherFromRows(partials, rowOfSlot: rowOfSlot, into: values)
  }

  func sumPartials(_ partials: TensorView, into sums: TensorView) throws(EngineError) {
    try base.sumPartials(partials, into: sums)
  }

  func rowDot(
    _ left: ExpertRows, _ right: ExpertRows, groups: RowGroups, into products: ExpertRows
  ) throws(EngineError) {
    try base.rowDot(
      inOrder(left), inOrder(right), groups: prepared(groups), into: inOrder(products))
  }

  func ranksOfTokens(
    _ topkIdx: TensorView, numExperts: Int, into ranks: TensorView
  ) throws(EngineError) {
    try base.ranksOfTokens(topkIdx, numExperts: numExperts, into: ranks)
  }

  func choicesOfRanks(
    _ topkIdx: TensorView, numExperts: Int, rowOfSlot: TensorView, into choices: TensorView
  ) throws(EngineError) {
    try base.choicesOfRanks(topkIdx, numExperts: numExperts, rowOfSlot: rowOfSlot, into: choices)
  }

  func arrivalPlaces(received: TensorView, into places: TensorView) throws(EngineError) {
    try base.arrivalPlaces(received: received, into: places)
  }

  func numbers(of tensor: TensorView) throws(EngineError) -> [Int32] {
    try base.numbers(of: tensor)
  }

  func store(_ numbers: [Int32], in tensor: TensorView) throws(EngineError) {
    try base.store(numbers, in: tensor)
  }

  /// A number for each row of a token, and one more.
  func preparedBytes(_ configuration: ExpertsConfiguration, localExperts: Int) -> ByteCount {
    ByteCount(fixed: 8, perItem: 8 * configuration.topK)
  }

  /// Notes the rows there is room for, which products look at.
  func prepare(
    _ groups: RowGroups, _ configuration: ExpertsConfiguration, rowsCapacity: Int
  ) throws(EngineError) {
    guard var prepared = groups.prepared else { return }
    let numbers = try prepared.take([rowsCapacity + 1], .i64)
    for row in 0...rowsCapacity { unsafe numbers.store(Int64(rowsCapacity - row), at: row) }
  }

  func groupedGEMM(
    _ rows: ExpertRows, weights: TensorView, layout: WeightLayout, bias: TensorView?,
    groups: RowGroups, into out: ExpertRows
  ) throws(EngineError) {
    try base.groupedGEMM(
      inOrder(rows), weights: weights, layout: layout, bias: bias, groups: prepared(groups),
      into: inOrder(out))
  }

  func groupedGEMMWeightGradient(
    gradOut: ExpertRows, rows: ExpertRows, layout: WeightLayout, groups: RowGroups,
    into gradWeights: TensorView, accumulate: Bool
  ) throws(EngineError) {
    try base.groupedGEMMWeightGradient(
      gradOut: inOrder(gradOut), rows: inOrder(rows), layout: layout, groups: prepared(groups),
      into: gradWeights, accumulate: accumulate)
  }

  func groupedRowSum(
    _ rows: ExpertRows, weights: ExpertRows?, groups: RowGroups, into sums: TensorView,
    accumulate: Bool
  ) throws(EngineError) {
    var ordered: ExpertRows?
    if let weights { ordered = try inOrder(weights) }
    try base.groupedRowSum(
      inOrder(rows), weights: ordered, groups: groups, into: sums, accumulate: accumulate)
  }

  func activate(
    _ configuration: ExpertsConfiguration, hidden: TensorView, groups: RowGroups,
    into out: TensorView
  ) throws(EngineError) {
    try base.activate(configuration, hidden: hidden, groups: groups, into: out)
  }

  func activateBackward(
    _ configuration: ExpertsConfiguration, groups: RowGroups, _ call: ActivationGradient
  ) throws(EngineError) {
    try base.activateBackward(configuration, groups: groups, call)
  }

  func expertsForward(
    _ experts: ExpertsCall, rows: ExpertRows, hidden: TensorView, into results: ExpertRows,
    _ arena: inout Arena
  ) throws(EngineError) {
    try composedExpertsForward(experts, rows: rows, hidden: hidden, into: results, &arena)
  }

  func expertsBackward(
    _ experts: ExpertsCall, _ call: ExpertsGradient
  ) throws(EngineError) -> TensorView? {
    try composedExpertsBackward(experts, call)
  }

  func dotParts(_ configuration: ExpertsConfiguration) -> Int { 1 }

  private func inOrder(_ rows: ExpertRows) throws(EngineError) -> ExpertRows {
    guard case .inOrder = rows.placement else {
      throw EngineError(.internal, "products were given rows that are not in order")
    }
    return rows
  }

  /// Throws where the groups of a pass were not prepared for their rows.
  private func prepared(_ groups: RowGroups) throws(EngineError) -> RowGroups {
    guard var memory = groups.prepared else { return groups }
    let first = try memory.take([1], .i64)
    let rows = try numbers(of: groups.tensor).last ?? 0
    guard unsafe first.load(Int64.self, at: 0) >= Int64(rows) else {
      throw EngineError(.internal, "the groups of \(rows) rows were not prepared")
    }
    return groups
  }
}
