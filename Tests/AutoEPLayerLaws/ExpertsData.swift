import AutoEPCore

/// The experts of a rank, and tokens with their topk_idx.
struct ExpertsData {
  let configuration: ExpertsConfiguration
  let numTokens: Int
  let sort: PlainSort
  let weights: ExpertsWeights
  let plain: PlainExperts
  let x: LawTensor
  let gradY: LawTensor
  /// The weight of each slot, in the sum type.
  let topkWeights: [Double]
  let groups: RowGroups
  let slots: SlotMap

  /// The rows that tensors have room for: one per slot, including slots without a row.
  var capacity: Int { numTokens * configuration.topK }
  var inUse: Int { sort.slotOfRow.count }

  init(
    _ run: BackendRun, _ configuration: ExpertsConfiguration, choice: [Int], hasBias: Bool
  ) throws {
    let (e, h, k) = (configuration.numExperts, configuration.hiddenSize, configuration.topK)
    self.configuration = configuration
    numTokens = choice.count / k
    sort = PlainSort(choice, numExperts: e)
    let parameters = try Parameters(run, configuration, hasBias: hasBias)
    weights = parameters.views
    plain = PlainExperts(
      configuration: configuration, counts: sort.counts, weights: parameters.values)
    x = try run.random([numTokens, h])
    gradY = try run.random([numTokens, h])
    topkWeights = run.random.values(choice.count).map { run.dtype.sumType.rounded($0) }
    groups = try Self.groups(run, configuration, sort, capacity: choice.count)
    slots = try Self.slots(run, sort, topK: k)
  }

  /// Makes the data of one token alone, with the same experts.
  init(_ run: BackendRun, _ token: Int, of data: ExpertsData, choice: [Int]) throws {
    let (h, k) = (data.configuration.hiddenSize, data.configuration.topK)
    func row(_ tensor: LawTensor) throws -> LawTensor {
      try run.tensor(Array(tensor.values[token * h..<(token + 1) * h]), [1, h])
    }
    (configuration, weights, plain) = (data.configuration, data.weights, data.plain)
    numTokens = 1
    sort = PlainSort(choice, numExperts: configuration.numExperts)
    (x, gradY) = (try row(data.x), try row(data.gradY))
    topkWeights = Array(data.topkWeights[token * k..<(token + 1) * k])
    groups = try Self.groups(run, configuration, sort, capacity: k)
    slots = try Self.slots(run, sort, topK: k)
  }

  private static func slots(
    _ run: BackendRun, _ sort: PlainSort, topK: Int
  ) throws -> SlotMap {
    let count = sort.rowOfSlot.count
    let unused = Array(repeating: 0, count: count - sort.slotOfRow.count)
    return SlotMap(
      rowOfSlot: try run.integers(sort.rowOfSlot, [count / topK, topK]),
      slotOfRow: try run.integers(sort.slotOfRow + unused))
  }

  private static func groups(
    _ run: BackendRun, _ configuration: ExpertsConfiguration, _ sort: PlainSort, capacity: Int
  ) throws -> RowGroups {
    let numExperts = configuration.numExperts
    let bytes = run.backend.preparedBytes(configuration, localExperts: numExperts)
      .of(capacity / configuration.topK)
    let groups = RowGroups(
      .offsets(try run.integers(sort.offsets)), prepared: try run.arena(bytes))
    try run.backend.prepare(groups, configuration, rowsCapacity: capacity)
    return groups
  }

  /// The copies of the tokens, in row order.
  func rows(_ tokens: LawTensor) -> [Double] {
    sort.rows(tokens.values, topK: configuration.topK, width: configuration.hiddenSize)
  }

  /// The weight of each row.
  var rowWeights: [Double] { sort.slotOfRow.map { topkWeights[$0] } }

  /// The values of the rows in use, followed by undefined rows.
  func padded(_ rows: [Double], width: Int) -> [Double] {
    rows + Array(repeating: .nan, count: capacity * width - rows.count)
  }

  func call() -> ExpertsCall { ExpertsCall(configuration, weights, groups: groups) }
}

/// Tensors of parameters, with their values.
private struct Parameters {
  let views: ExpertsWeights
  let values: PlainExperts.Weights

  init(_ run: BackendRun, _ configuration: ExpertsConfiguration, hasBias: Bool) throws {
    let (e, h, f) = (configuration.numExperts, configuration.hiddenSize, configuration.ffnSize)
    let g = configuration.gateUpSize
    let isOutIn = configuration.weightLayout == .outIn
    // Scaled so that a product keeps the variance of its rows.
    func weight(_ out: Int, _ into: Int) throws -> LawTensor {
      let size = Double(into).squareRoot()
      return try run.tensor(
        run.random.values(e * out * into).map { $0 / size },
        [e] + (isOutIn ? [out, into] : [into, out]))
    }
    let (gateUp, down) = (try weight(g, h), try weight(h, f))
    let gateUpBias = hasBias ? try run.random([e, g]) : nil
    let downBias = hasBias ? try run.random([e, h]) : nil
    views = ExpertsWeights(
      gateUp: gateUp.view, gateUpBias: gateUpBias?.view, down: down.view, downBias: downBias?.view)
    values = PlainExperts.Weights(
      gateUp: gateUp.values, gateUpBias: gateUpBias?.values ?? [], down: down.values,
      downBias: downBias?.values ?? [])
  }
}
