import AutoEPCore
import AutoEPSystem

extension CPUBackend {
  /// rows[rowOfSlot[t,k]] = topkWeights[t,k] · x[t].
  public func permute(
    _ x: TensorView, rowOfSlot: TensorView, weights: TensorView?, into rows: TensorView
  ) throws(EngineError) {
    let slots = SlotRows(rowOfSlot, rowCount: rows.shape[0])
    prepareOutputs(rows)
    switch x.dtype {
    case .f32: permute(Elements<Float>(x), slots, weights, rows)
    case .f64: permute(Elements<Double>(x), slots, weights, rows)
    case .bf16: permute(Elements<BFloat16>(x), slots, weights, rows)
    case .f16, .i32, .i64: throw Self.unsupported(x.dtype, by: "permute")
    }
  }

  /// y[t] = Σ_k topkWeights[t,k] · rows[rowOfSlot[t,k]] in k order.
  public func unpermute(
    _ rows: TensorView, rowOfSlot: TensorView, weights: TensorView?, into y: TensorView
  ) throws(EngineError) {
    let slots = SlotRows(rowOfSlot, rowCount: rows.shape[0])
    prepareOutputs(y)
    switch rows.dtype {
    case .f32: unpermute(Elements<Float>(rows), slots, weights, y)
    case .f64: unpermute(Elements<Double>(rows), slots, weights, y)
    case .bf16: unpermute(Elements<BFloat16>(rows), slots, weights, y)
    case .f16, .i32, .i64: throw Self.unsupported(rows.dtype, by: "unpermute")
    }
  }

  /// products[t,k] = ⟨x[t], rows[rowOfSlot[t,k]]⟩.
  public func slotDot(
    _ x: TensorView, _ rows: TensorView, rowOfSlot: TensorView, into products: TensorView
  ) throws(EngineError) {
    let slots = SlotRows(rowOfSlot, rowCount: rows.shape[0])
    switch x.dtype {
    case .f32: slotDot(Elements<Float>(x), rows, slots, products)
    case .f64: slotDot(Elements<Double>(x), rows, slots, products)
    case .bf16: slotDot(Elements<BFloat16>(x), rows, slots, products)
    case .f16, .i32, .i64: throw Self.unsupported(x.dtype, by: "the gradient of topk_weights")
    }
  }

  /// Throws if an entry of `rowOfSlot [T,K]` is out of range or, with `areDistinct`, a row occurs twice.
  public func check(rowOfSlot: TensorView, rowCount: Int, areDistinct: Bool) throws(EngineError) {
    try SlotRows(rowOfSlot, rowCount: rowCount).check(areDistinct: areDistinct)
  }

  private func permute<S: RowScalar>(
    _ x: Elements<S>, _ slots: SlotRows, _ weights: TensorView?, _ rows: TensorView
  ) {
    let width = rows.rowElementCount
    let weights = weights.map { WideValues<S.Wide>($0) }
    let rows = Elements<S>(rows)
    forEachTokenRange(of: slots, width: width) {
      for token in $0 {
        let source = x.row(token, width: width)
        for slot in token * slots.topK..<(token + 1) * slots.topK {
          guard let row = slots[slot] else { continue }
          let target = rows.row(row, width: width)
          if let weights {
            target.setScaled(source, by: weights[slot])
          } else {
            target.copy(source)
          }
        }
      }
    }
  }

  private func unpermute<S: RowScalar>(
    _ rows: Elements<S>, _ slots: SlotRows, _ weights: TensorView?, _ y: TensorView
  ) {
    let width = y.rowElementCount
    let weights = weights.map { WideValues<S.Wide>($0) }
    let y = Elements<S>(y)
    forEachTokenRange(of: slots, width: width) { tokens in
      workbenches.withWorkbench { bench in
        let sums = bench.elements(S.Wide.self, for: .sums, count: width)
        for token in tokens {
          sums.fill(0)
          for slot in token * slots.topK..<(token + 1) * slots.topK {
            guard let row = slots[slot] else { continue }
            rows.row(row, width: width).addScaled(by: weights?[slot] ?? 1, to: sums)
          }
          y.row(token, width: width).store(sums)
        }
      }
    }
  }

  private func slotDot<S: RowScalar>(
    _ x: Elements<S>, _ rows: TensorView, _ slots: SlotRows, _ products: TensorView
  ) {
    let width = rows.rowElementCount
    let rows = Elements<S>(rows)
    let values = [S.Wide](count: slots.slotCount) { values in
      forEachTokenRange(of: slots, width: width) {
        for token in $0 {
          let tokenRow = x.row(token, width: width)
          for slot in token * slots.topK..<(token + 1) * slots.topK {
            guard let row = slots[slot] else { continue }
            values[slot] = tokenRow.dot(rows.row(row, width: width))
          }
        }
      }
    }
    products.store(values)
  }

  private func forEachTokenRange(
    of slots: SlotRows, width: Int, _ body: @Sendable (Range<Int>) -> Void
  ) {
    pool.forEachRange(
      of: slots.numTokens, grain: Self.grain(elementsPerItem: slots.topK * width), body)
  }
}
