import AutoEPCore

/// Chooses the K experts of the highest scores, ties to the lowest index, from the best groups.
struct ExpertChoice<R: Real> {
  private let topK: Int
  private let groupScore: RouteConfiguration.GroupScore
  private let numGroups: Int
  private let topkGroups: Int
  private let expertsPerGroup: Int

  private var isOpen: [Bool]
  private var isGroupOpen: [Bool]

  init(_ configuration: RouteConfiguration, numExperts: Int) {
    topK = configuration.topK
    groupScore = configuration.groupScore
    numGroups = configuration.numGroups
    topkGroups = configuration.topkGroups
    expertsPerGroup = numExperts / configuration.numGroups
    isOpen = Array(repeating: true, count: numExperts)
    isGroupOpen = Array(repeating: true, count: configuration.numGroups)
  }

  /// The chosen experts, in order of falling score.
  mutating func choose(from scores: [R]) -> [Int] {
    openAllowedExperts(scores)
    return (0..<topK).map { _ in takeBest(scores, &isOpen) }
  }

  private mutating func openAllowedExperts(_ scores: [R]) {
    guard groupScore != .none else {
      for expert in isOpen.indices { isOpen[expert] = true }
      return
    }
    for expert in isOpen.indices { isOpen[expert] = false }
    for group in isGroupOpen.indices { isGroupOpen[group] = true }
    let groupScores = (0..<numGroups).map { groupScore(of: $0, scores) }
    for _ in 0..<topkGroups {
      for expert in experts(of: takeBest(groupScores, &isGroupOpen)) { isOpen[expert] = true }
    }
  }

  private func experts(of group: Int) -> Range<Int> {
    group * expertsPerGroup..<(group + 1) * expertsPerGroup
  }

  private func groupScore(of group: Int, _ scores: [R]) -> R {
    var best = -R.infinity
    var second = -R.infinity
    for expert in experts(of: group) {
      if scores[expert] > best {
        second = best
        best = scores[expert]
      } else if scores[expert] > second {
        second = scores[expert]
      }
    }
    return groupScore == .max || expertsPerGroup == 1 ? best : best + second
  }
}

/// The open index of the highest score, the lowest of equals, which is closed. At least one is open.
private func takeBest<R: Real>(_ scores: [R], _ isOpen: inout [Bool]) -> Int {
  var best = -1
  for index in scores.indices where isOpen[index] {
    if best < 0 || scores[index] > scores[best] { best = index }
  }
  isOpen[best] = false
  return best
}
