import AutoEPCore

/// The consecutive rows of each group.
struct RowGroups {
  let ranges: [Range<Int>]

  /// Throws unless there is a count for each of `groupCount` groups, none negative, that sum to
  /// `rowCount`.
  init(_ rowsPerGroup: [Int], groupCount: Int, rowCount: Int) throws(EngineError) {
    guard rowsPerGroup.count == groupCount else {
      throw EngineError(
        .invalidArgument,
        "rows_per_group has \(rowsPerGroup.count) groups; expected \(groupCount), as the weights")
    }
    var ranges: [Range<Int>] = []
    var next = 0
    for (group, count) in rowsPerGroup.enumerated() {
      guard count >= 0, count <= rowCount - next else {
        throw EngineError(
          .invalidArgument,
          "rows_per_group gives group \(group) \(count) rows; \(rowCount - next) rows are left")
      }
      ranges.append(next..<next + count)
      next += count
    }
    guard next == rowCount else {
      throw EngineError(
        .invalidArgument, "rows_per_group sums to \(next); expected the \(rowCount) rows given")
    }
    self.ranges = ranges
  }
}
