import AutoEPCPU
import AutoEPCore
import Testing

/// Tensors without an element may have any size in their other dimensions.
@Suite struct EmptyTensorTests {
  private let huge = 1 << 62

  @Test func noRowsOfAnyWidth() throws {
    let backend = testBackend()
    let (rows, map) = (empty([0, huge]), Tensor([0, 2], .i32).view)
    try backend.permute(rows, rowOfSlot: map, weights: nil, into: rows)
    try backend.unpermute(rows, rowOfSlot: map, weights: nil, into: rows)
    try backend.slotDot(rows, rows, rowOfSlot: map, into: empty([0, 2]))
    backend.jitter(rows, epsilon: 0.1, seed: 1, into: rows)
    let experts = ExpertsConfiguration(
      numExperts: 1, hiddenSize: huge, ffnSize: huge / 2, dtype: .f32)
    backend.activate(experts, hidden: rows, into: empty([0, huge / 2]))
    backend.activateBackward(
      experts, hidden: rows, gradOut: empty([0, huge / 2]), into: rows)
  }

  @Test func noTokensOfAnyNumberOfExperts() throws {
    let logits = empty([0, huge])
    testBackend().routerZLossBackward(
      logits: logits, gradLoss: Tensor([1], [1], .f32).view, into: logits)
  }

  @Test func weightsOfNoInputs() throws {
    let weights = empty([1, huge, 0])
    let noRows = Tensor(integers: [0], [1]).view
    try testBackend().groupedGEMMWeightGradient(
      gradOut: empty([0, huge]), rows: empty([0, 0]), layout: .outIn, rowsPerGroup: noRows,
      into: weights)
    try testBackend().groupedGEMM(
      empty([0, 0]), weights: weights, layout: .outIn, bias: nil, rowsPerGroup: noRows,
      into: empty([0, huge]))
  }

  private func empty(_ shape: [Int]) -> TensorView {
    Tensor(shape, .f32).view
  }
}
