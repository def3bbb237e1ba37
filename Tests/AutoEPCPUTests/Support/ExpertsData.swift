import AutoEPCore

@testable import AutoEPCPU

/// The inputs of a rank's experts, and memory for their outputs.
struct ExpertsData {
  let configuration: ExpertsConfiguration
  let counts: [Int]
  private let gateUp: Tensor
  private let gateUpBias: Tensor?
  private let down: Tensor
  private let downBias: Tensor?

  /// Makes experts with random weights and the given numbers of rows.
  init(
    _ counts: [Int], hiddenSize: Int, ffnSize: Int, _ dtype: DataType, hasBiases: Bool,
    _ random: inout Random, _ change: (inout ExpertsConfiguration) -> Void = { _ in }
  ) {
    var configuration = ExpertsConfiguration(
      numExperts: counts.count, topK: 3, hiddenSize: hiddenSize, ffnSize: ffnSize, dtype: dtype)
    change(&configuration)
    self.configuration = configuration
    self.counts = counts
    let (e, g) = (counts.count, configuration.gateUpSize)
    let isOutIn = configuration.weightLayout == .outIn
    gateUp = random.tensor(isOutIn ? [e, g, hiddenSize] : [e, hiddenSize, g], dtype)
    down = random.tensor(isOutIn ? [e, hiddenSize, ffnSize] : [e, ffnSize, hiddenSize], dtype)
    gateUpBias = hasBiases ? random.tensor([e, g], dtype) : nil
    downBias = hasBiases ? random.tensor([e, hiddenSize], dtype) : nil
  }

  /// R.
  var numRows: Int { counts.reduce(0, +) }
  private var dtype: DataType { configuration.dtype }

  /// The arguments of a pass.
  var call: ExpertsCall {
    ExpertsCall(
      configuration,
      ExpertsWeights(
        gateUp: gateUp.view, gateUpBias: gateUpBias?.view, down: down.view, downBias: downBias?.view
      ), groups: RowGroups(offsetsOf: counts))
  }

  /// Computes the pre-activation and the results `[R,H]` of rows.
  func forward(
    _ backend: CPUBackend, _ rows: ExpertRows, into results: ExpertRows, composed: Bool = false
  ) throws -> Tensor {
    let hidden = Tensor([numRows, configuration.gateUpSize], dtype)
    let room = Tensor([numRows, configuration.ffnSize], dtype)
    var arena = composed ? Arena(room.view) : Arena.none
    if composed {
      try backend.composedExpertsForward(
        call, rows: rows, hidden: hidden.view, into: results, &arena)
    } else {
      try backend.expertsForward(call, rows: rows, hidden: hidden.view, into: results, &arena)
    }
    return hidden
  }

  /// The outputs that a backward is asked for.
  struct Wishes {
    var hasDots = true
    var wantsGradInputs = true
    /// Whether the gradient of the pre-activation overwrites it.
    var overwritesHidden = false
    var gradients: DataType?
    var accumulates = false
  }

  /// The outputs of a backward.
  struct Gradients {
    let gradHidden: Tensor
    /// The sums of the dots' parts, in row order.
    let dots: Tensor?
    let gradInputs: PlacedRows
    let down: Tensor
    let downBias: Tensor?
    let gateUpBias: Tensor?

    /// All gradients in a fixed order.
    var tensors: [Tensor] {
      [gradHidden, down]
        + [dots, downBias, gateUpBias].compactMap { $0 }
    }
  }

  /// Runs the backward; the rows' results and inputs have the same placement.
  func backward(
    _ backend: CPUBackend, hidden: Tensor, gradRows: ExpertRows, rowWeights: ExpertRows?,
    placed kind: PlacedRows.Kind, _ wishes: Wishes, composed: Bool = false,
    _ random: inout Random
  ) throws -> Gradients {
    // Made from one random state, so that outputs are placed alike in every call.
    let inputs = PlacedRows.output(
      kind, numRows, width: configuration.hiddenSize, dtype, &random)
    let parts = PlacedRows.output(
      kind, numRows, width: backend.dotParts(configuration), dtype.sumType, &random)
    func target(_ tensor: Tensor) -> Tensor {
      let shape = tensor.view.shape
      let type = wishes.gradients ?? dtype
      return wishes.accumulates
        ? Tensor(tensor.values.map { $0 / 2 }, shape, type) : Tensor(shape, type)
    }
    let (down, downBias) = (target(self.down), self.downBias.map(target))
    let gateUpBias = self.gateUpBias.map(target)
    let gradHidden = wishes.overwritesHidden ? hidden : Tensor(hidden.view.shape, dtype)
    let gradient = ExpertsGradient(
      gradRows: gradRows, rowWeights: rowWeights, hidden: hidden.view, gradHidden: gradHidden.view,
      activated: Tensor([numRows, configuration.ffnSize], dtype).view,
      dots: wishes.hasDots ? parts.rows : nil, gradInputs: inputs.rows,
      wantsGradInputs: wishes.wantsGradInputs,
      gradients: ExpertsGradients(
        gateUp: nil, gateUpBias: gateUpBias?.view, down: down.view, downBias: downBias?.view,
        accumulate: wishes.accumulates))
    let made =
      try composed
      ? backend.composedExpertsBackward(call, gradient) : backend.expertsBackward(call, gradient)
    let dots = try made.map { made in
      let sums = Tensor([made.shape[0], 1], dtype.sumType)
      try backend.sumPartials(made, into: sums.view)
      return Tensor(parts.places.map { sums.values[$0] }, [numRows, 1], dtype.sumType)
    }
    return Gradients(
      gradHidden: gradHidden, dots: dots, gradInputs: inputs, down: down, downBias: downBias,
      gateUpBias: gateUpBias)
  }
}
