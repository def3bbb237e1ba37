import AutoEPCore
import AutoEPSystem

/// The consecutive rows of each group, read from `RowGroups`.
struct GroupRanges {
  let ranges: [Range<Int>]

  /// Throws unless the bounds describe `groupCount` groups, in order, within `rowCount` rows. Counts must sum to
  /// `rowCount`.
  init(_ groups: RowGroups, groupCount: Int, rowCount: Int) throws(EngineError) {
    guard groups.count == groupCount else {
      throw EngineError(
        .invalidArgument,
        "rows_per_group has \(groups.count) groups; expected \(groupCount), as the weights")
    }
    switch groups.bounds {
    case .counts(let counts): ranges = try Self.ranges(counts: counts, rowCount: rowCount)
    case .offsets(let offsets): ranges = try Self.ranges(offsets: offsets, rowCount: rowCount)
    }
  }

  /// The number of rows in all groups.
  var rowCount: Int { ranges.last?.upperBound ?? 0 }

  private static func ranges(counts: TensorView, rowCount: Int) throws(EngineError) -> [Range<Int>]
  {
    var ranges: [Range<Int>] = []
    ranges.reserveCapacity(counts.elementCount)
    var next = 0
    for group in 0..<counts.elementCount {
      let count = count(of: group, counts)
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
    return ranges
  }

  /// Reads the offsets of a plan; rows after the last offset belong to no slot.
  private static func ranges(
    offsets: TensorView, rowCount: Int
  ) throws(EngineError) -> [Range<Int>] {
    let bounds = Elements<Int32>(offsets)
    var ranges: [Range<Int>] = []
    ranges.reserveCapacity(bounds.count - 1)
    var next = 0
    for group in 1..<bounds.count {
      let end = Int(bounds[group])
      guard end >= next, end <= rowCount else {
        throw EngineError(
          .invalidArgument, "plan was changed after it was made; expected its own bytes")
      }
      ranges.append(next..<end)
      next = end
    }
    return ranges
  }

  private static func count(of group: Int, _ counts: TensorView) -> Int {
    unsafe counts.dtype == .i32
      ? Int(counts.load(Int32.self, at: group)) : Int(counts.load(Int64.self, at: group))
  }
}
