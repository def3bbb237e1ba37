import AutoEPCore

/// Grouped products in f64, computed row by row.
struct PlainProducts {
  /// Rows of each group.
  let counts: [Int]
  /// The input width.
  let inSize: Int
  /// The output width.
  let outSize: Int

  var numRows: Int { counts.reduce(0, +) }

  /// The group of each row.
  var groupOfRow: [Int] {
    counts.enumerated().flatMap { group, count in Array(repeating: group, count: count) }
  }

  /// `[E,out,in]` or `[E,in,out]`.
  func weightShape(_ layout: WeightLayout) -> [Int] {
    [counts.count] + (layout == .outIn ? [outSize, inSize] : [inSize, outSize])
  }

  /// out[r] = rows[r] · W[group of r] + bias of the group.
  func product(
    _ rows: [Double], _ weights: [Double], _ layout: WeightLayout, bias: [Double]? = nil
  ) -> [Double] {
    let weights = layout == .outIn ? transposed(weights, outSize, inSize) : weights
    var out = [Double](repeating: 0, count: numRows * outSize)
    for (row, group) in groupOfRow.enumerated() {
      if let bias {
        for output in 0..<outSize { out[row * outSize + output] = bias[group * outSize + output] }
      }
      for input in 0..<inSize {
        add(
          rows[row * inSize + input], times: weights, from: (group * inSize + input) * outSize,
          to: &out, at: row * outSize)
      }
    }
    return out
  }

  /// For each group, Σ over its rows of gradOut[r] ⊗ rows[r], in the layout of the weights.
  func weightGradient(
    _ gradOut: [Double], _ rows: [Double], _ layout: WeightLayout
  ) -> [Double] {
    var result = [Double](repeating: 0, count: counts.count * inSize * outSize)
    for (row, group) in groupOfRow.enumerated() {
      for input in 0..<inSize {
        add(
          rows[row * inSize + input], times: gradOut, from: row * outSize, to: &result,
          at: (group * inSize + input) * outSize)
      }
    }
    return layout == .outIn ? transposed(result, inSize, outSize) : result
  }

  /// For each group, Σ over its rows of weights[r] · rows[r].
  static func rowSums(
    _ rows: [Double], _ counts: [Int], width: Int, weights: [Double]? = nil
  ) -> [Double] {
    var sums = [Double](repeating: 0, count: counts.count * width)
    let groups = PlainProducts(counts: counts, inSize: width, outSize: width).groupOfRow
    for (row, group) in groups.enumerated() {
      for column in 0..<width {
        sums[group * width + column] += (weights?[row] ?? 1) * rows[row * width + column]
      }
    }
    return sums
  }

  /// sums[target + o] += factor · values[first + o] for each output o; without bounds checks, because most time is
  /// spent here.
  private func add(
    _ factor: Double, times values: [Double], from first: Int, to sums: inout [Double],
    at target: Int
  ) {
    precondition(first + outSize <= values.count && target + outSize <= sums.count)
    values.withUnsafeBufferPointer { values in
      sums.withUnsafeMutableBufferPointer { sums in
        for output in 0..<outSize { sums[target + output] += factor * values[first + output] }
      }
    }
  }

  /// Transposes each group's matrix of m rows and n columns.
  private func transposed(_ matrices: [Double], _ m: Int, _ n: Int) -> [Double] {
    var result = [Double](repeating: 0, count: matrices.count)
    for group in counts.indices {
      let first = group * m * n
      for row in 0..<m {
        for column in 0..<n {
          result[first + column * m + row] = matrices[first + row * n + column]
        }
      }
    }
    return result
  }
}

/// ⟨left, right⟩ of row pairs of one width.
func plainDots(_ left: [Double], _ right: [Double], width: Int) -> [Double] {
  (0..<left.count / max(width, 1)).map { row in
    (0..<width).reduce(0) { $0 + left[row * width + $1] * right[row * width + $1] }
  }
}
