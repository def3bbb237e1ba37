import AutoEPCore

/// Chooses the K experts with the highest scores from the best groups; ties go to the lowest index.
struct ExpertChoice<R: Real> {
  private let topK: Int
  private let groupScore: RouteConfiguration.GroupScore
  private let topkGroups: Int
  private let numExperts: Int
  private let expertsPerGroup: Int

  private var groups: TopList<R>
  private var chosen: TopList<R>
  private var isGroupOpen: [Bool]

  init(_ configuration: RouteConfiguration, numExperts: Int) {
    topK = configuration.topK
    groupScore = configuration.groupScore
    topkGroups = configuration.topkGroups
    self.numExperts = numExperts
    expertsPerGroup = numExperts / configuration.numGroups
    groups = TopList(capacity: configuration.topkGroups)
    chosen = TopList(capacity: configuration.topK)
    isGroupOpen = Array(repeating: true, count: configuration.numGroups)
  }

  /// Writes the chosen experts in descending order of score.
  mutating func choose(from scores: Elements<R>, into experts: Elements<Int32>) {
    chosen.clear()
    if groupScore == .none {
      chosen.offer(scores, of: 0..<numExperts)
    } else {
      openBestGroups(scores)
      for group in isGroupOpen.indices where isGroupOpen[group] {
        chosen.offer(scores, of: self.experts(of: group))
      }
    }
    for k in 0..<topK { experts[k] = Int32(truncatingIfNeeded: chosen.indices[k]) }
  }

  private mutating func openBestGroups(_ scores: Elements<R>) {
    groups.clear()
    for group in isGroupOpen.indices {
      isGroupOpen[group] = false
      groups.offer(groupScore(of: group, scores), at: group)
    }
    for k in 0..<topkGroups { isGroupOpen[groups.indices[k]] = true }
  }

  private func experts(of group: Int) -> Range<Int> {
    group * expertsPerGroup..<(group + 1) * expertsPerGroup
  }

  private func groupScore(of group: Int, _ scores: Elements<R>) -> R {
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
