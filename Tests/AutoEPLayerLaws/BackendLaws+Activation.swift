import AutoEPCore
import AutoEPReferences

extension BackendLaw {
  static let activationLaws = [
    BackendLaw("activate: the activation of each row") { run in
      try forEachActivation(run) { configuration, groups, place in
        let hidden = try run.random([groups.capacity, configuration.gateUpSize])
        let out = try run.output([groups.capacity, configuration.ffnSize])
        try run.backend.activate(
          configuration, hidden: hidden.view, groups: groups.groups, into: out)
        let inUse = Array(hidden.values.prefix(groups.inUse * configuration.gateUpSize))
        try run.expect(out, PlainActivation(configuration: configuration)(inUse), place)
      }
    },
    BackendLaw("activateBackward: its gradient, with and without the weights of rows") { run in
      try forEachActivation(run) { configuration, groups, place in
        let data = try ActivationData(run, configuration, groups)
        try data.checkAlone(run, place)
        for hasBias in [false, true] {
          try data.checkWeighted(run, hasBias: hasBias, inPlace: false, place)
          try data.checkWeighted(run, hasBias: hasBias, inPlace: true, place)
        }
      }
    },
    BackendLaw("activate: large inputs neither overflow nor give NaN") { run in
      for configuration in activations(4, run.dtype) where configuration.gate == .concatenated {
        let groups = try LawGroups(run, [1], .offsets)
        let hidden = try run.tensor([50, -50, 200, -200, 1, 1, 1, 1], [1, 8])
        let (out, gradHidden) = (try run.output([1, 4]), try run.output([1, 8]))
        try run.backend.activate(
          configuration, hidden: hidden.view, groups: groups.groups, into: out)
        try run.expect(
          out, PlainActivation(configuration: configuration)(hidden.values),
          "\(configuration.activation)")
        try run.backend.activateBackward(
          configuration, groups: groups.groups,
          ActivationGradient(
            hidden: hidden.view, gradOut: run.tensor([1, 1, 1, 1], [1, 4]).view,
            gradHidden: gradHidden))
        let isFinite = try run.values(gradHidden).allSatisfy(\.isFinite)
        run.record.expect(isFinite, "\(configuration.activation): a gradient is not finite")
      }
    },
  ]
}

/// All activations, each with every gate that it supports.
private func activations(_ ffnSize: Int, _ dtype: DataType) -> [ExpertsConfiguration] {
  let all: [ExpertsConfiguration.Activation] = [
    .silu, .gelu, .geluTanh, .reluSquared, .clampedSwiGLU, .clampedSiLU,
  ]
  return all.flatMap { activation in
    [ExpertsConfiguration.Gate.none, .concatenated, .interleaved]
      .filter { $0 != .none || !activation.isClamped }
      .map { gate in
        var configuration = ExpertsConfiguration(
          numExperts: 3, topK: 1, hiddenSize: ffnSize + 1, ffnSize: ffnSize, dtype: dtype)
        configuration.activation = activation
        configuration.gate = gate
        configuration.swigluAlpha = 1.702
        // Some random inputs, which are within ±1.74, exceed the limit.
        configuration.swigluLimit = 1.25
        return configuration
      }
  }
}

private func forEachActivation(
  _ run: BackendRun, _ body: (ExpertsConfiguration, LawGroups, String) throws -> Void
) throws {
  for (counts, width) in [([0, 0, 0], 4), ([1, 0, 0], 1), ([3, 0, 2], 17), ([20, 9, 1], 40)] {
    for var configuration in activations(width, run.dtype) {
      // Lets kernels read rows by whole vectors if F allows it.
      if width % 8 == 0 { configuration.hiddenSize = width + 8 }
      let groups = try LawGroups(run, counts, .offsets, spareRows: 2)
      try body(
        configuration, groups,
        "\(configuration.activation) \(configuration.gate), F \(width), rows \(counts)")
    }
  }
}

/// The inputs of an activation's backward.
private struct ActivationData {
  let configuration: ExpertsConfiguration
  let groups: LawGroups
  let hidden: LawTensor
  let gradOut: LawTensor
  let rowWeights: LawTensor
  let gradRows: LawTensor
  let downBias: LawTensor

  init(_ run: BackendRun, _ configuration: ExpertsConfiguration, _ groups: LawGroups) throws {
    self.configuration = configuration
    self.groups = groups
    let rows = groups.capacity
    hidden = try run.random([rows, configuration.gateUpSize])
    gradOut = try run.random([rows, configuration.ffnSize])
    rowWeights = try run.random([rows, 1], run.dtype.sumType)
    gradRows = try run.random([rows, configuration.hiddenSize])
    downBias = try run.random([3, configuration.hiddenSize])
  }

  private func inUse(_ tensor: LawTensor) -> [Double] {
    Array(tensor.values.prefix(groups.inUse * tensor.view.shape[1]))
  }

  private var plain: PlainActivation { PlainActivation(configuration: configuration) }

  /// Requests the gradient of hidden only.
  func checkAlone(_ run: BackendRun, _ place: String) throws {
    let gradHidden = try run.output(hidden.view.shape)
    try run.backend.activateBackward(
      configuration, groups: groups.groups,
      ActivationGradient(hidden: hidden.view, gradOut: gradOut.view, gradHidden: gradHidden))
    try run.expect(gradHidden, plain.gradient(inUse(hidden), inUse(gradOut)), "\(place), alone")
  }

  /// Requests all outputs; `inPlace`: in the memory of the inputs.
  func checkWeighted(_ run: BackendRun, hasBias: Bool, inPlace: Bool, _ place: String) throws {
    let hiddenView = try run.tensor(hidden.values, hidden.view.shape).view
    let gradOutView = try run.tensor(gradOut.values, gradOut.view.shape).view
    let gradHidden = inPlace ? hiddenView : try run.output(hidden.view.shape)
    let activated = inPlace ? gradOutView : try run.output(gradOut.view.shape)
    let dots = try run.output([groups.capacity, 1], run.dtype.sumType)
    try run.backend.activateBackward(
      configuration, groups: groups.groups,
      ActivationGradient(
        hidden: hiddenView, gradOut: gradOutView, rowWeights: ExpertRows(rowWeights.view),
        gradRows: ExpertRows(gradRows.view), downBias: hasBias ? downBias.view : nil,
        gradHidden: gradHidden, activated: activated, dots: ExpertRows(dots)))

    let place = "\(place), bias \(hasBias), in place \(inPlace)"
    let weights = inUse(rowWeights)
    try run.expect(
      gradHidden,
      scaled(
        plain.gradient(inUse(hidden), inUse(gradOut)), by: weights, width: configuration.gateUpSize),
      "gradHidden of \(place)")
    try run.expect(
      activated, scaled(plain(inUse(hidden)), by: weights, width: configuration.ffnSize),
      "activated of \(place)")
    try run.expect(
      dots, expectedDots(hasBias), tolerance: run.dtype.tolerance(), "dots of \(place)")
  }

  private func expectedDots(_ hasBias: Bool) -> [Double] {
    let dots = plainDots(inUse(gradOut), plain(inUse(hidden)), width: configuration.ffnSize)
    guard hasBias else { return dots }
    let width = configuration.hiddenSize
    let biases = PlainProducts(counts: groups.counts, inSize: 1, outSize: 1).groupOfRow
      .flatMap { downBias.values[$0 * width..<($0 + 1) * width] }
    return zip(dots, plainDots(inUse(gradRows), biases, width: width)).map { $0 + $1 }
  }
}
