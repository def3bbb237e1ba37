import AutoEPCore

/// A router with its name in test output.
package struct RouterCase: Sendable, CustomStringConvertible {
  package let description: String
  package let configuration: RouteConfiguration
  package let numExperts: Int
  package let hasBias: Bool

  /// The kinds of routers of HF's families, with odd sizes of each.
  package static let all: [RouterCase] = [
    RouterCase("softmax, K = 1", .softmax, topK: 1, of: 5),
    RouterCase("mixtral", .softmax, topK: 2, of: 8) { $0.normalizeEpsilon = 0 },
    RouterCase("qwen3, K = E", .softmax, topK: 7, of: 7) { $0.normalizeEpsilon = 0 },
    RouterCase("one expert", .softmax, topK: 1, of: 1),
    RouterCase("many experts", .softmax, topK: 8, of: 128),
    RouterCase("deepseek-v2", .softmax, topK: 3, of: 12) {
      $0.scale = 16
      $0.groupScore = .max
      $0.numGroups = 4
      $0.topkGroups = 2
    },
    RouterCase("mistral4", .softmax, topK: 4, of: 16) {
      $0.normalizeEpsilon = 0
      $0.groupScore = .top2Sum
      $0.numGroups = 4
      $0.topkGroups = 2
    },
    RouterCase("gpt-oss", .topkSoftmax, topK: 4, of: 32),
    RouterCase("gpt-oss with bias", .topkSoftmax, topK: 2, of: 9, hasBias: true),
    RouterCase("sigmoid", .sigmoid, topK: 3, of: 17),
    RouterCase("deepseek-v3", .sigmoid, topK: 4, of: 32, hasBias: true) {
      $0.normalizeEpsilon = 1e-20
      $0.scale = 2.5
      $0.groupScore = .top2Sum
      $0.numGroups = 8
      $0.topkGroups = 4
    },
    RouterCase("groups of one expert", .sigmoid, topK: 2, of: 6) {
      $0.groupScore = .top2Sum
      $0.numGroups = 6
      $0.topkGroups = 3
    },
    RouterCase("sinkhorn in eval, K = 1", .sinkhorn, topK: 1, of: 8),
    RouterCase("sinkhorn in eval", .sinkhorn, topK: 2, of: 8),
    RouterCase("sinkhorn, K = 1", .sinkhorn, topK: 1, of: 8) { $0.sinkhornIterations = 3 },
    RouterCase("sinkhorn", .sinkhorn, topK: 3, of: 8) { $0.sinkhornIterations = 2 },
  ]

  /// The routers that route each token independently.
  package static let tokenwise = all.filter { $0.configuration.score != .sinkhorn }

  private init(
    _ name: String, _ score: RouteConfiguration.Score, topK: Int, of numExperts: Int,
    hasBias: Bool = false, _ change: (inout RouteConfiguration) -> Void = { _ in }
  ) {
    var configuration = RouteConfiguration(score: score, topK: topK)
    change(&configuration)
    description = name
    self.configuration = configuration
    self.numExperts = numExperts
    self.hasBias = hasBias
  }
}
