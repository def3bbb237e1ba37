import AutoEPCore
import AutoEPSystem
import Glibc

extension CPUBackend {
  /// Stable counting sort of the slots by expert.
  public func sortByExpert(
    topkIdx: TensorView, numExperts: Int, rowOfSlot: TensorView, tokensPerExpert: TensorView
  ) throws(EngineError) {
    let choice = try topkIdx.integers()
    let counts = try ExpertCounts(choice, numExperts: numExperts)
    var nextRows = counts.firstRows
    rowOfSlot.store(
      integers: choice.map { expert in
        defer { nextRows[expert] += 1 }
        return nextRows[expert]
      })
    tokensPerExpert.store(integers: counts.tokensPerExpert)
  }

  /// rows[rowOfSlot[t,k]] = weights[t,k] · x[t]; throws too where a row has not exactly one slot.
  public func permute(
    _ x: TensorView, rowOfSlot: TensorView, weights: TensorView?, into rows: TensorView
  ) throws(EngineError) {
    let map = try RowOfSlot(rowOfSlot, rowCount: rows.shape[0])
    try map.checkPermutation(rowCount: rows.shape[0])
    prepareOutputs(rows)
    switch x.dtype {
    case .f32: permute(Elements<Float>(x), map, weights, rows)
    case .f64: permute(Elements<Double>(x), map, weights, rows)
    case .bf16: permute(Elements<BFloat16>(x), map, weights, rows)
    case .f16, .i32, .i64: throw Self.unsupported(x.dtype, by: "permute")
    }
  }

  /// y[t] = Σ_k weights[t,k] · rows[rowOfSlot[t,k]] in k order.
  public func unpermute(
    _ rows: TensorView, rowOfSlot: TensorView, weights: TensorView?, into y: TensorView
  ) throws(EngineError) {
    let map = try RowOfSlot(rowOfSlot, rowCount: rows.shape[0])
    prepareOutputs(y)
    switch rows.dtype {
    case .f32: unpermute(Elements<Float>(rows), map, weights, y)
    case .f64: unpermute(Elements<Double>(rows), map, weights, y)
    case .bf16: unpermute(Elements<BFloat16>(rows), map, weights, y)
    case .f16, .i32, .i64: throw Self.unsupported(rows.dtype, by: "unpermute")
    }
  }

  /// gradWeights[t,k] = ⟨x[t], rows[rowOfSlot[t,k]]⟩.
  public func slotDot(
    _ x: TensorView, _ rows: TensorView, rowOfSlot: TensorView, into gradWeights: TensorView
  ) throws(EngineError) {
    let map = try RowOfSlot(rowOfSlot, rowCount: rows.shape[0])
    switch x.dtype {
    case .f32: slotDot(Elements<Float>(x), rows, map, gradWeights)
    case .f64: slotDot(Elements<Double>(x), rows, map, gradWeights)
    case .bf16: slotDot(Elements<BFloat16>(x), rows, map, gradWeights)
    case .f16, .i32, .i64: throw Self.unsupported(x.dtype, by: "the gradient of top-k weights")
    }
  }

  private func permute<S: RowScalar>(
    _ x: Elements<S>, _ map: RowOfSlot, _ weights: TensorView?, _ rows: TensorView
  ) {
    let (numTokens, width) = (map.numTokens, rows.rowElementCount)
    let weights = weights?.reals(S.Wide.self)
    let rows = Elements<S>(rows)
    forEachTokenRange(of: numTokens, topK: map.topK, width: width) {
      for token in $0 {
        let source = x.row(token, width: width)
        for k in 0..<map.topK {
          let target = rows.row(map[token, k], width: width)
          if let weights {
            target.setScaled(source, by: weights[token * map.topK + k])
          } else {
            target.copy(source)
          }
        }
      }
    }
  }

  private func unpermute<S: RowScalar>(
    _ rows: Elements<S>, _ map: RowOfSlot, _ weights: TensorView?, _ y: TensorView
  ) {
    let (numTokens, width) = (map.numTokens, y.rowElementCount)
    let weights = weights?.reals(S.Wide.self)
    let y = Elements<S>(y)
    forEachTokenRange(of: numTokens, topK: map.topK, width: width) { tokens in
      workbenches.withWorkbench { bench in
        let sums = bench.elements(S.Wide.self, for: .sums, count: width)
        for token in tokens {
          sums.fill(0)
          for k in 0..<map.topK {
            let weight = weights.map { $0[token * map.topK + k] } ?? 1
            rows.row(map[token, k], width: width).addScaled(by: weight, to: sums)
          }
          y.row(token, width: width).store(sums)
        }
      }
    }
  }

  private func slotDot<S: RowScalar>(
    _ x: Elements<S>, _ rows: TensorView, _ map: RowOfSlot, _ gradWeights: TensorView
  ) {
    let (numTokens, width) = (map.numTokens, rows.rowElementCount)
    let rows = Elements<S>(rows)
    let products = [S.Wide](count: numTokens * map.topK) { products in
      forEachTokenRange(of: numTokens, topK: map.topK, width: width) {
        for token in $0 {
          let row = x.row(token, width: width)
          for k in 0..<map.topK {
            products[token * map.topK + k] = row.dot(rows.row(map[token, k], width: width))
          }
        }
      }
    }
    gradWeights.store(products)
  }

  private func forEachTokenRange(
    of numTokens: Int, topK: Int, width: Int, _ body: @Sendable (Range<Int>) -> Void
  ) {
    pool.forEachRange(of: numTokens, grain: Self.grain(elementsPerItem: topK * width), body)
  }
}
