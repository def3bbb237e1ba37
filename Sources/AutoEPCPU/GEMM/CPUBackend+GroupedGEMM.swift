import AutoEPCore

extension CPUBackend {
  /// out[r] = rows[r] · W[group of r] (+ bias); throws where the counts do not fit the rows.
  public func groupedGEMM(
    _ rows: TensorView, weights: TensorView, layout: WeightLayout, bias: TensorView?,
    rowsPerGroup: TensorView, into out: TensorView
  ) throws(EngineError) {
    let groups = try RowGroups(
      rowsPerGroup, groupCount: weights.shape[0], rowCount: rows.shape[0])
    switch rows.dtype {
    case .f32: multiply(Elements<Float>(rows), weights, layout, bias, groups, out)
    case .f64: multiply(Elements<Double>(rows), weights, layout, bias, groups, out)
    case .bf16: multiply(Elements<BFloat16>(rows), weights, layout, bias, groups, out)
    case .f16, .i32, .i64: throw Self.unsupported(rows.dtype, by: "grouped GEMM")
    }
  }

  /// For each group, Σ over its rows of gradOut[r] ⊗ rows[r].
  public func groupedGEMMWeightGradient(
    gradOut: TensorView, rows: TensorView, layout: WeightLayout, rowsPerGroup: TensorView,
    into gradWeights: TensorView
  ) throws(EngineError) {
    let groups = try RowGroups(
      rowsPerGroup, groupCount: gradWeights.shape[0], rowCount: rows.shape[0])
    // The gradient of [in, out] is the outer product the other way round.
    let (left, right) = layout == .outIn ? (gradOut, rows) : (rows, gradOut)
    switch rows.dtype {
    case .f32: multiplyOuter(Elements<Float>(left), right, groups, gradWeights)
    case .f64: multiplyOuter(Elements<Double>(left), right, groups, gradWeights)
    case .bf16: multiplyOuter(Elements<BFloat16>(left), right, groups, gradWeights)
    case .f16, .i32, .i64: throw Self.unsupported(rows.dtype, by: "the grouped GEMM's gradient")
    }
  }

  private func multiply<S: RowScalar>(
    _ rows: Elements<S>, _ weights: TensorView, _ layout: WeightLayout, _ bias: TensorView?,
    _ groups: RowGroups, _ out: TensorView
  ) {
    let (first, second) = (weights.shape[1], weights.shape[2])
    let (outSize, inSize) = layout == .outIn ? (first, second) : (second, first)
    let weights = Elements<S>(weights)
    let bias = bias.map { Elements<S>($0) }
    let out = Elements<S>(out)
    compute(
      groups.ranges.enumerated().map { group, range in
        let weight = Matrix(
          weights.row(group, width: first * second), rows: first, columns: second)
        return GEMMProduct(
          a: Matrix(rows.rows(range, width: inSize), rows: range.count, columns: inSize),
          b: layout == .outIn ? weight.transposed : weight,
          bias: bias?.row(group, width: outSize),
          out: Matrix(out.rows(range, width: outSize), rows: range.count, columns: outSize))
      })
  }

  private func multiplyOuter<S: RowScalar>(
    _ left: Elements<S>, _ right: TensorView, _ groups: RowGroups, _ gradWeights: TensorView
  ) {
    let (leftSize, rightSize) = (gradWeights.shape[1], gradWeights.shape[2])
    let right = Elements<S>(right)
    let gradWeights = Elements<S>(gradWeights)
    compute(
      groups.ranges.enumerated().map { group, range in
        GEMMProduct(
          a: Matrix(left.rows(range, width: leftSize), rows: range.count, columns: leftSize)
            .transposed,
          b: Matrix(right.rows(range, width: rightSize), rows: range.count, columns: rightSize),
          bias: nil,
          out: Matrix(
            gradWeights.row(group, width: leftSize * rightSize), rows: leftSize,
            columns: rightSize))
      })
  }

  /// Shares the tiles of all products out over the threads.
  private func compute<S: RowScalar>(_ products: [GEMMProduct<S>]) {
    let kernel = S.Wide.kernel(of: kernels)
    let blocking = GEMMBlocking(kernel)
    let tiles = blocking.tiles(groups: products.map { ($0.out.rows, $0.out.columns) })
    let byteCount = GEMMScratch<S.Wide>.byteCount(blocking)
    pool.forEachRange(of: tiles.count, grain: 1) { range in
      scratch.withMemory(byteCount: byteCount) { memory in
        let scratch = GEMMScratch<S.Wide>(memory, blocking)
        for tile in tiles[range] {
          products[tile.group].compute(tile, blocking, kernel, scratch)
        }
      }
    }
  }
}
