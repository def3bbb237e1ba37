import AutoEPCore
import Testing

/// The sizes of a grouped product.
struct GEMMCase: Sendable, CustomTestStringConvertible {
  let testDescription: String
  let inSize: Int
  let outSize: Int
  let rowsPerGroup: [Int]

  /// Sizes around the kernels' tiles and blocks, and unusual groups.
  static let all = [
    GEMMCase("one of everything", 1, 1, [1]),
    GEMMCase("odd sizes", 17, 65, [3, 0, 17, 1]),
    GEMMCase("empty groups at both ends", 33, 31, [0, 0, 5, 0, 9, 0]),
    GEMMCase("all rows in one group", 16, 48, [0, 0, 70, 0]),
    GEMMCase("no rows", 5, 7, [0, 0]),
    GEMMCase("no groups", 5, 7, []),
    GEMMCase("no input features", 0, 3, [2, 1]),
    GEMMCase("several depths", 530, 5, [15, 2]),
    GEMMCase("several tiles", 3, 300, [290]),
  ]

  private init(_ name: String, _ inSize: Int, _ outSize: Int, _ rowsPerGroup: [Int]) {
    testDescription = name
    self.inSize = inSize
    self.outSize = outSize
    self.rowsPerGroup = rowsPerGroup
  }

  var numRows: Int { rowsPerGroup.reduce(0, +) }

  /// The group of each row.
  var groupOfRow: [Int] {
    rowsPerGroup.enumerated().flatMap { group, count in Array(repeating: group, count: count) }
  }

  func weightShape(_ layout: WeightLayout) -> [Int] {
    let sizes = layout == .outIn ? [outSize, inSize] : [inSize, outSize]
    return [rowsPerGroup.count] + sizes
  }

  /// The index of the weight from an input to an output feature of a group.
  func place(_ group: Int, _ output: Int, _ input: Int, _ layout: WeightLayout) -> Int {
    group * inSize * outSize
      + (layout == .outIn ? output * inSize + input : input * outSize + output)
  }
}
