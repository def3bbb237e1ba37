import AutoEPCore
import Testing

@testable import AutoEPCPU

/// The scratch memory that a backend keeps.
@Suite struct SteadyStateTests {
  @Test(arguments: [DataType.f32, .bf16], [WeightLayout.outIn, .inOut])
  func aSecondStepTakesNoNewMemory(dtype: DataType, layout: WeightLayout) throws {
    let backend = testBackend(threads: 1)
    try step(backend, dtype, layout)
    let held = backend.workbenches.byteCount
    #expect(held > 0)
    try step(backend, dtype, layout)
    #expect(backend.workbenches.byteCount == held)
  }

  /// A forward and backward of experts with unequal loads.
  private func step(_ backend: CPUBackend, _ dtype: DataType, _ layout: WeightLayout) throws {
    var random = Random(81)
    let (h, f, counts) = (40, 24, [70, 0, 3, 400])
    let total = counts.reduce(0, +)
    var configuration = ExpertsConfiguration(
      numExperts: counts.count, topK: 1, hiddenSize: h, ffnSize: f, dtype: dtype)
    configuration.weightLayout = layout
    let gateUpShape = layout == .outIn ? [2 * f, h] : [h, 2 * f]
    let downShape = layout == .outIn ? [h, f] : [f, h]
    let gateUp = random.tensor([counts.count] + gateUpShape, dtype)
    let down = random.tensor([counts.count] + downShape, dtype)
    let weights = ExpertsWeights(
      gateUp: gateUp.view, gateUpBias: nil, down: down.view, downBias: nil)
    let rows = random.tensor([total, h], dtype)
    let hidden = Tensor([total, 2 * f], dtype)
    let results = Tensor([total, h], dtype)
    let experts = ExpertsCall(configuration, weights, groups: RowGroups(counts: counts))
    var arena = Arena.none
    try backend.expertsForward(
      experts, rows: ExpertRows(rows.view), hidden: hidden.view, into: ExpertRows(results.view),
      &arena)
    let (gradHidden, activated) = (Tensor([total, 2 * f], dtype), Tensor([total, f], dtype))
    let gradGateUp = Tensor(gateUp.view.shape, dtype)
    let gradDown = Tensor(down.view.shape, dtype)
    let gradInputs = Tensor([total, h], dtype)
    let rowWeights = random.tensor([total, 1], dtype.sumType)
    let dots = Tensor([total, backend.dotParts(configuration)], dtype.sumType)
    _ = try backend.expertsBackward(
      experts,
      ExpertsGradient(
        gradRows: ExpertRows(results.view), rowWeights: ExpertRows(rowWeights.view),
        hidden: hidden.view, gradHidden: gradHidden.view, activated: activated.view,
        dots: ExpertRows(dots.view), gradInputs: ExpertRows(gradInputs.view),
        gradients: ExpertsGradients(
          gateUp: nil, gateUpBias: nil, down: gradDown.view, downBias: nil)))
    try backend.gateUpGradient(
      experts, rows: ExpertRows(rows.view), room: nil, gradHidden: gradHidden.view,
      into: gradGateUp.view, accumulate: false, &arena)
  }
}
