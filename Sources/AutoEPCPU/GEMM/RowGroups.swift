import AutoEPCore
import AutoEPSystem

/// The consecutive rows of each group.
struct RowGroups {
  let ranges: [Range<Int>]

  /// Throws unless there is a count for each of `groupCount` groups, none negative, that sum to
  /// `rowCount`.
  ///
  /// - Parameter rowsPerGroup: i32 or i64.
  init(_ rowsPerGroup: TensorView, groupCount: Int, rowCount: Int) throws(EngineError) {
    guard rowsPerGroup.elementCount == groupCount else {
      throw EngineError(
        .invalidArgument,
        "rows_per_group has \(rowsPerGroup.elementCount) groups; expected \(groupCount), as the"
          + " weights")
    }
    var ranges: [Range<Int>] = []
    ranges.reserveCapacity(groupCount)
    var next = 0
    for group in 0..<groupCount {
      let count = Self.count(of: group, rowsPerGroup)
      guard count >= 0, count <= rowCount - next else {
        throw EngineError(
          .invalidArgument,
          "rows_per_group has \(count) at index \(group), with \(rowCount - next) of \(rowCount)"
            + " rows left; expected 0 to that")
      }
      ranges.append(next..<next + count)
      next += count
    }
    guard next == rowCount else {
      throw EngineError(
        .invalidArgument,
        "rows_per_group sums to \(next); expected the \(rowCount) rows of the tensor")
    }
    self.ranges = ranges
  }

  private static func count(of group: Int, _ rowsPerGroup: TensorView) -> Int {
    unsafe rowsPerGroup.dtype == .i32
      ? Int(rowsPerGroup.load(Int32.self, at: group))
      : Int(rowsPerGroup.load(Int64.self, at: group))
  }
}
