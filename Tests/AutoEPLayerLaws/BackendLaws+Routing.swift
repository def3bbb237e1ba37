import AutoEPCore
import AutoEPReferences

extension BackendLaw {
  static let routingLaws = [
    BackendLaw("routerLogits: x times the router's transpose") { run in
      for (tokens, experts, width) in [
        (0, 4, 8), (1, 1, 1), (33, 7, 24), (70, 60, 136), (5, 288, 8), (300, 128, 264),
      ] {
        let (x, router) = (try run.random([tokens, width]), try run.random([experts, width]))
        let logits = try run.output([tokens, experts])
        try run.backend.routerLogits(x.view, router: router.view, into: logits)
        let expected = run.reference {
          PlainProducts(counts: [tokens], inSize: width, outSize: experts)
            .product(x.values, router.values, .outIn)
        }
        try run.expect(logits, expected, "T \(tokens), E \(experts), H \(width)")
      }
    },
    BackendLaw("route: the choice, its weights and its counts") { run in
      for item in RouterCase.tokenwise { try RouteLaw(run, item, numTokens: 33).checkForward() }
      try RouteLaw(run, RouterCase.tokenwise[0], numTokens: 0).checkForward()
      try checkTies(run)
    },
    BackendLaw("route: logits that allow no choice are refused") { run in
      for (value, all) in [(Double.nan, false), (.infinity, false), (-.infinity, true)] {
        var logits = run.random.values(12)
        for index in 4..<8 where all || index == 6 { logits[index] = value }
        let topkIdx = try run.output([3, 2], .i32)
        try run.expectBadData(topkIdx, saying: ["token 1"], "a logit of \(value)") {
          try run.backend.route(
            RouteConfiguration(score: .softmax, topK: 2), logits: run.tensor(logits, [3, 4]).view,
            selectionBias: nil, topkIdx: topkIdx,
            topkWeights: run.output([3, 2], run.dtype.sumType), tokensPerExpert: nil)
        }
      }
    },
    BackendLaw("routeBackward: the gradient of the weights to the logits") { run in
      for item in RouterCase.tokenwise { try RouteLaw(run, item, numTokens: 9).checkBackward() }
    },
    BackendLaw("routerZLoss: the loss and its gradient") { run in
      for (tokens, experts) in [(1, 1), (3, 17), (65, 130)] {
        try checkZLoss(run, tokens, experts)
      }
      let loss = try run.output([1], run.dtype.sumType)
      try run.backend.routerZLoss(logits: run.output([0, 4]), into: loss)
      try run.expectExactly(loss, [0], "no tokens")
    },
    BackendLaw("jitter: noise that seed and index decide") { run in
      let x = try run.random([41, 25])
      for (epsilon, seed) in [(0.1, UInt64(7)), (0.1, 8), (0, 1)] {
        let y = try run.output([41, 25])
        try run.backend.jitter(x.view, epsilon: epsilon, seed: seed, into: y)
        let expected = x.values.enumerated().map {
          $1 * plainNoise($0, epsilon: epsilon, seed: seed)
        }
        try run.expect(y, expected, "epsilon \(epsilon), seed \(seed)")
      }
      let own = try run.tensor(x.values, [41, 25])
      try run.backend.jitter(own.view, epsilon: 0.1, seed: 7, into: own.view)
      try run.expect(
        own.view, x.values.enumerated().map { $1 * plainNoise($0, epsilon: 0.1, seed: 7) },
        "in place")
    },
  ]
}

/// A router on random logits.
private struct RouteLaw {
  let run: BackendRun
  let item: RouterCase
  let numTokens: Int
  let logits: LawTensor
  let bias: LawTensor?

  init(_ run: BackendRun, _ item: RouterCase, numTokens: Int) throws {
    (self.run, self.item, self.numTokens) = (run, item, numTokens)
    logits = try run.random([numTokens, item.numExperts])
    bias = item.hasBias ? try run.random([item.numExperts], run.dtype.sumType) : nil
  }

  private var topK: Int { item.configuration.topK }
  private var rows: [[Double]] {
    let width = item.numExperts
    return (0..<numTokens).map { Array(logits.values[$0 * width..<($0 + 1) * width]) }
  }
  private var plain: PlainRouter {
    PlainRouter(configuration: item.configuration, selectionBias: bias?.values)
  }
  private var experts: [Int] { rows.flatMap { plain.experts($0) } }

  func checkForward() throws {
    let topkIdx = try run.output([numTokens, topK], .i32)
    let topkWeights = try run.output([numTokens, topK], run.dtype.sumType)
    let counts = try run.output([item.numExperts], .i32)
    try run.backend.route(
      item.configuration, logits: logits.view, selectionBias: bias?.view, topkIdx: topkIdx,
      topkWeights: topkWeights, tokensPerExpert: counts)
    let experts = self.experts
    try run.expectExactly(topkIdx, experts.map { Double($0) }, "topk_idx of \(item.description)")
    let weights = rows.enumerated().flatMap { token, row in
      plain.weights(
        row.map { Dual($0) }, experts: Array(experts[token * topK..<(token + 1) * topK])
      ).map(\.value)
    }
    try run.expect(topkWeights, weights, "topk_weights of \(item.description)")
    try run.expectExactly(
      counts, (0..<item.numExperts).map { expert in Double(experts.count { $0 == expert }) },
      "tokens_per_expert of \(item.description)")
  }

  func checkBackward() throws {
    let experts = self.experts
    let gradWeights = try run.random([numTokens, topK], run.dtype.sumType)
    let gradLogits = try run.output([numTokens, item.numExperts])
    try run.backend.routeBackward(
      item.configuration, logits: logits.view, topkIdx: run.integers(experts, [numTokens, topK]),
      gradTopkWeights: gradWeights.view, into: gradLogits)
    let expected = run.reference {
      rows.enumerated().flatMap { token, row in
        let slots = token * topK..<(token + 1) * topK
        return gradient(at: row) { logits in
          zip(plain.weights(logits, experts: Array(experts[slots])), gradWeights.values[slots])
            .reduce(Dual(0)) { $0 + $1.1 * $1.0 }
        }
      }
    }
    // A single expert's weight does not depend on its logit: the whole gradient is the rounding error of 1 - 1.
    if item.numExperts == 1 { return }
    try run.expect(gradLogits, expected, item.description)
  }
}

/// Checks that ties go to the lowest indices.
private func checkTies(_ run: BackendRun) throws {
  for item in RouterCase.tokenwise where !item.hasBias {
    let shape = [2, item.configuration.topK]
    let topkIdx = try run.output(shape, .i32)
    try run.backend.route(
      item.configuration,
      logits: run.tensor(
        Array(repeating: 0.5, count: 2 * item.numExperts), [2, item.numExperts]
      ).view, selectionBias: nil, topkIdx: topkIdx,
      topkWeights: run.output(shape, run.dtype.sumType), tokensPerExpert: nil)
    let lowest = (0..<item.configuration.topK).map { Double($0) }
    try run.expectExactly(topkIdx, lowest + lowest, "ties of \(item.description)")
  }
}

private func checkZLoss(_ run: BackendRun, _ tokens: Int, _ experts: Int) throws {
  let logits = try run.random([tokens, experts])
  let loss = try run.output([1], run.dtype.sumType)
  try run.backend.routerZLoss(logits: logits.view, into: loss)
  try run.expect(
    loss, [plainZLoss(logits.values.map { Dual($0) }, numExperts: experts).value],
    "loss, T \(tokens), E \(experts)")
  let gradLoss = try run.tensor([0.7], [1], run.dtype.sumType)
  let gradLogits = try run.output([tokens, experts])
  try run.backend.routerZLossBackward(
    logits: logits.view, gradLoss: gradLoss.view, into: gradLogits)
  // A token's part of the loss depends only on its own logits.
  let expected = run.reference {
    (0..<tokens).flatMap { token in
      gradient(at: Array(logits.values[token * experts..<(token + 1) * experts])) {
        plainZLoss($0, numExperts: experts)
      }.map { $0 * gradLoss.values[0] / Double(tokens) }
    }
  }
  try run.expect(gradLogits, expected, "gradient, T \(tokens), E \(experts)")
}
