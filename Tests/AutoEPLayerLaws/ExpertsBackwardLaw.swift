import AutoEPCore
import AutoEPSystem

/// The experts' backward on one case, with a given pre-activation.
struct ExpertsBackwardLaw {
  private let run: BackendRun
  private let data: ExpertsData
  private let name: String
  private let hidden: LawTensor
  private let gradRows: [Double]

  init(_ run: BackendRun, _ item: ExpertsCase) throws {
    self.run = run
    data = try ExpertsData(
      run, item.configuration, choice: item.choice, hasBias: item.hasBias)
    name = item.name
    hidden = try run.random([data.capacity, item.configuration.gateUpSize])
    gradRows = data.rows(data.gradY)
  }

  /// Checks all outputs of the backend's own function and of the composed steps. Rows have weights exactly if dots
  /// are requested, as in a layer that applies the weights after its experts.
  func check() throws {
    let weighted = run.reference { reference(isWeighted: true) }
    let plain = run.reference { reference(isWeighted: false) }
    let (tokens, rows) = try (tokens(), copies())
    try check(tokens, weighted, Variant())
    try check(rows, weighted, Variant(accumulates: true))
    try check(rows, weighted, Variant(isComposed: true))
    try check(rows, weighted, Variant(isInPlace: true, wantsGradInputs: false))
    try check(tokens, weighted, Variant(isComposed: true, accumulates: true))
    try check(tokens, plain, Variant(isWeighted: false))
    try check(rows, plain, Variant(isComposed: true, isWeighted: false))
  }

  /// One way to call the backward.
  private struct Variant {
    var isComposed = false
    var isWeighted = true
    var accumulates = false
    /// Whether the gradient of hidden overwrites hidden.
    var isInPlace = false
    var wantsGradInputs = true

    var name: String {
      "\(isComposed ? "composed" : "own"), weighted \(isWeighted), added \(accumulates),"
        + " in place \(isInPlace)"
    }
  }

  private var configuration: ExpertsConfiguration { data.configuration }

  private func reference(isWeighted: Bool) -> PlainExperts.Gradients {
    let inUse = Array(hidden.values.prefix(data.inUse * configuration.gateUpSize))
    return data.plain.gradients(
      gradRows, rows: data.rows(data.x), hidden: inUse,
      rowWeights: isWeighted ? data.rowWeights : Array(repeating: 1, count: data.inUse))
  }

  private func tokens() -> ExpertRows { ExpertRows(data.gradY.view, .tokens(data.slots)) }

  private func copies() throws -> ExpertRows {
    let shape = [data.capacity, configuration.hiddenSize]
    return ExpertRows(try run.tensor(data.padded(gradRows, width: shape[1]), shape).view)
  }

  private func check(
    _ gradRows: ExpertRows, _ expected: PlainExperts.Gradients?, _ variant: Variant
  ) throws {
    let isWeighted = variant.isWeighted
    let place = "\(gradRows.placementName), \(variant.name), \(name)"
    let targets = try Targets(run, data, accumulates: variant.accumulates)
    let hiddenView = try run.tensor(hidden.values, hidden.view.shape).view
    let call = try ExpertsGradient(
      gradRows: gradRows, rowWeights: isWeighted ? rowWeights() : nil, hidden: hiddenView,
      gradHidden: variant.isInPlace ? hiddenView : run.output(hidden.view.shape),
      activated: run.output([data.capacity, configuration.ffnSize]),
      dots: isWeighted ? dots() : nil,
      gradInputs: ExpertRows(run.output([data.capacity, configuration.hiddenSize])),
      wantsGradInputs: variant.wantsGradInputs, gradients: targets.gradients)
    let parts =
      variant.isComposed
      ? try run.backend.composedExpertsBackward(data.call(), call)
      : try run.backend.expertsBackward(data.call(), call)
    // The gradients of the activation, of hidden and of the inputs are rounded one after another.
    try run.expect(call.gradHidden, expected?.hidden, roundings: 2, "gradHidden of \(place)")
    try run.expect(call.activated, expected?.activated, "activated of \(place)")
    if variant.wantsGradInputs {
      try run.expect(
        call.gradInputs.tensor, expected?.inputs, roundings: 3, "gradInputs of \(place)")
    }
    try targets.expect(run, expected?.weights, place)
    try checkDots(parts, expected?.dots, isWeighted: isWeighted, place)
  }

  private func rowWeights() throws -> ExpertRows {
    ExpertRows(
      try run.tensor(
        data.padded(data.rowWeights, width: 1), [data.capacity, 1], run.dtype.sumType
      ).view)
  }

  private func dots() throws -> ExpertRows {
    ExpertRows(
      try run.output([data.capacity, run.backend.dotParts(configuration)], run.dtype.sumType))
  }

  private func checkDots(
    _ parts: TensorView?, _ expected: [Double]?, isWeighted: Bool, _ place: String
  ) throws {
    guard isWeighted else { return }
    guard let parts else { return run.record.fail("no dots of \(place)") }
    let values = try run.values(parts)
    let sums = (0..<data.inUse).map { row in
      values[row * parts.shape[1]..<(row + 1) * parts.shape[1]].reduce(0, +)
    }
    let tensor = try run.tensor(sums, [data.inUse, 1], .f64)
    try run.expect(
      tensor.view, expected, tolerance: run.dtype.tolerance(roundings: 2), "dots of \(place)")
  }
}

/// The targets of the gradients of down and of the biases.
private struct Targets {
  let gradients: ExpertsGradients
  private let start: Double

  init(_ run: BackendRun, _ data: ExpertsData, accumulates: Bool) throws {
    let dtype = accumulates ? run.dtype.sumType : run.dtype
    let start = accumulates ? 0.5 : .nan
    func target(_ weight: TensorView?) throws -> TensorView? {
      guard let weight else { return nil }
      let values = [Double](repeating: start, count: weight.elementCount)
      return try run.tensor(values, weight.shape, dtype).view
    }
    self.start = accumulates ? start : 0
    gradients = ExpertsGradients(
      gateUp: nil, gateUpBias: try target(data.weights.gateUpBias),
      down: try target(data.weights.down), downBias: try target(data.weights.downBias),
      accumulate: accumulates)
  }

  func expect(_ run: BackendRun, _ expected: PlainExperts.Weights?, _ place: String) throws {
    let parts: [(String, TensorView?, [Double]?, Int)] = [
      ("gradient of down", gradients.down, expected?.down, 2),
      ("gradient of down's bias", gradients.downBias, expected?.downBias, 1),
      ("gradient of gate/up's bias", gradients.gateUpBias, expected?.gateUpBias, 3),
    ]
    for case let (name, tensor?, values, roundings) in parts {
      try run.expect(
        tensor, values.map { $0.map { $0 + start } },
        tolerance: run.dtype.tolerance(roundings: roundings), "\(name) of \(place)")
    }
  }
}
