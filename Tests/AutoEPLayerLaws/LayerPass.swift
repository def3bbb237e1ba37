import AutoEPCore

/// A forward and a backward of a layer on one rank; each buffer has exactly the size that its query returns.
struct LayerPass {
  /// The results, by name.
  struct Results: Sendable {
    var y: [Double] = []
    var gradX: [Double] = []
    var gradTopkWeights: [Double] = []
    var weights = PlainExperts.Weights(gateUp: [], gateUpBias: [], down: [], downBias: [])
  }

  private let rank: DispatcherRank
  private let layer: ExpertsLayer
  private let weights: ExpertsWeights

  init(_ rank: DispatcherRank) throws {
    self.rank = rank
    layer = rank.layer
    weights = try Self.weights(rank)
  }

  /// Makes a plan and runs forward and backward.
  func run() throws -> Results {
    let memory = try rank.planMemory()
    return try run(memory, rank.makePlan(in: memory))
  }

  /// Runs forward and backward on a plan, which each opens for itself.
  func run(
    _ planMemory: Arena, _ rowCount: RowCount, overwritesSaved: Bool = false
  ) throws -> Results {
    let saved = try rank.heap.arena(layer.savedBytes(rowCount))
    var results = Results()
    try forward(planMemory, rowCount, saved, &results)
    try backward(planMemory, rowCount, saved, overwritesSaved: overwritesSaved, &results)
    return results
  }

  private var configuration: ExpertsConfiguration { rank.configuration }

  private static func weights(_ rank: DispatcherRank) throws -> ExpertsWeights {
    let (all, c) = (rank.item.weights, rank.configuration)
    let isOutIn = c.weightLayout == .outIn
    let experts = rank.dispatcher.experts
    func part(_ values: [Double], _ shape: [Int]) throws -> TensorView {
      let width = shape.reduce(1, *)
      return try rank.heap.tensor(
        Array(values[experts.lowerBound * width..<experts.upperBound * width]),
        [experts.count] + shape, c.dtype)
    }
    return ExpertsWeights(
      gateUp: try part(
        all.gateUp, isOutIn ? [c.gateUpSize, c.hiddenSize] : [c.hiddenSize, c.gateUpSize]),
      gateUpBias: rank.item.hasBias ? try part(all.gateUpBias, [c.gateUpSize]) : nil,
      down: try part(all.down, isOutIn ? [c.hiddenSize, c.ffnSize] : [c.ffnSize, c.hiddenSize]),
      downBias: rank.item.hasBias ? try part(all.downBias, [c.hiddenSize]) : nil)
  }

  private func open(
    _ memory: Arena, _ rowCount: RowCount, _ arena: inout Arena
  ) throws -> DispatchPlan {
    try rank.dispatcher.open(
      memory, numTokens: rank.tokens.count, rowCount: rowCount, &arena)
  }

  private func forward(
    _ memory: Arena, _ rowCount: RowCount, _ saved: Arena, _ results: inout Results
  ) throws {
    let tokens = rank.tokens.count
    let y = try rank.heap.empty([tokens, configuration.hiddenSize], configuration.dtype)
    var arena = try rank.heap.arena(
      rank.dispatcher.openBytes(rowCount) + layer.forwardBytes(numTokens: tokens, rowCount))
    let pass = ExpertsLayer.Forward(
      weights: weights, x: try rank.tensor(rank.item.x, width: configuration.hiddenSize),
      topkWeights: try rank.topkWeights(), saved: saved, y: y)
    try layer.forward(open(memory, rowCount, &arena), pass, &arena)
    results.y = try rank.heap.values(y)
  }

  private func backward(
    _ memory: Arena, _ rowCount: RowCount, _ saved: Arena, overwritesSaved: Bool,
    _ results: inout Results
  ) throws {
    let (tokens, h) = (rank.tokens.count, configuration.hiddenSize)
    let gradX = try rank.heap.empty([tokens, h], configuration.dtype)
    let gradTopkWeights = try rank.heap.empty(
      [tokens, configuration.topK], configuration.dtype.sumType)
    let gradients = try targets()
    let pass = ExpertsLayer.Backward(
      weights: weights, gradY: try rank.tensor(rank.item.gradY, width: h),
      x: layer.backwardReadsX ? try rank.tensor(rank.item.x, width: h) : nil,
      topkWeights: try rank.topkWeights(), saved: saved, overwritesSaved: overwritesSaved,
      gradX: gradX,
      gradTopkWeights: gradTopkWeights, gradients: gradients)
    var arena = try rank.heap.arena(
      rank.dispatcher.openBytes(rowCount)
        + layer.backwardBytes(numTokens: tokens, rowCount, pass.needs))
    try layer.backward(open(memory, rowCount, &arena), pass, &arena)
    results.gradX = try rank.heap.values(gradX)
    results.gradTopkWeights = try rank.heap.values(gradTopkWeights)
    results.weights = PlainExperts.Weights(
      gateUp: try values(gradients.gateUp), gateUpBias: try values(gradients.gateUpBias),
      down: try values(gradients.down), downBias: try values(gradients.downBias))
  }

  private func targets() throws -> ExpertsGradients {
    func like(_ weight: TensorView?) throws -> TensorView? {
      try weight.map { try rank.heap.empty($0.shape, $0.dtype) }
    }
    return ExpertsGradients(
      gateUp: try like(weights.gateUp), gateUpBias: try like(weights.gateUpBias),
      down: try like(weights.down), downBias: try like(weights.downBias))
  }

  private func values(_ tensor: TensorView?) throws -> [Double] {
    try tensor.map { try rank.heap.values($0) } ?? []
  }
}
