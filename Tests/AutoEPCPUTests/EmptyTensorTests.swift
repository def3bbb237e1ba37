import AutoEPCPU
import AutoEPCore
import Testing

/// Tensors without elements may have any size in their other dimensions.
@Suite struct EmptyTensorTests {
  private let huge = 1 << 62

  @Test func noRowsOfAnyWidth() throws {
    let backend = testBackend()
    let (rows, map) = (empty([0, huge]), Tensor([0, 2], .i32).view)
    let column = ExpertRows(empty([0, 1]))
    try backend.permute(rows, rowOfSlot: map, weights: nil, into: rows)
    try backend.unpermute(rows, rowOfSlot: map, weights: nil, into: rows)
    try backend.slotDot(rows, rows, rowOfSlot: map, into: empty([0, 2]))
    backend.jitter(rows, epsilon: 0.1, seed: 1, into: rows)
    let experts = ExpertsConfiguration(
      numExperts: 1, topK: 2, hiddenSize: huge, ffnSize: huge / 2, dtype: .f32)
    let groups = RowGroups(counts: [0])
    try backend.activate(experts, hidden: rows, groups: groups, into: empty([0, huge / 2]))
    try backend.activateBackward(
      experts, groups: groups,
      ActivationGradient(
        hidden: rows, gradOut: empty([0, huge / 2]), gradHidden: rows, dots: column))
    try backend.groupedRowSum(
      ExpertRows(rows), weights: column, groups: RowGroups(counts: []), into: empty([0, huge]),
      accumulate: true)
    try backend.rowDot(ExpertRows(rows), ExpertRows(rows), groups: groups, into: column)
    try backend.scatterToRows(empty([0, 2]), rowOfSlot: map, into: column.tensor)
    try backend.gatherFromRows(empty([0, huge]), rowOfSlot: map, into: empty([0, 2]))
    try backend.sumPartials(empty([0, huge]), into: column.tensor)
  }

  @Test func noTokensOfAnyNumberOfExperts() throws {
    let logits = empty([0, huge])
    testBackend().routerZLossBackward(
      logits: logits, gradLoss: Tensor([1], [1], .f32).view, into: logits)
  }

  @Test func weightsOfNoInputs() throws {
    let weights = empty([1, huge, 0])
    let noRows = RowGroups(counts: [0])
    try testBackend().groupedGEMMWeightGradient(
      gradOut: ExpertRows(empty([0, huge])), rows: ExpertRows(empty([0, 0])), layout: .outIn,
      groups: noRows, into: weights, accumulate: false)
    try testBackend().groupedGEMM(
      ExpertRows(empty([0, 0])), weights: weights, layout: .outIn, bias: nil, groups: noRows,
      into: ExpertRows(empty([0, huge])))
  }

  private func empty(_ shape: [Int]) -> TensorView {
    Tensor(shape, .f32).view
  }
}
