import AutoEPCore
import AutoEPSystem

/// Numbers that accompany rows: the weight of each row, and its gradient.
extension CPUBackend {
  /// rowValues[rowOfSlot[t,k]] = values[t,k].
  public func scatterToRows(
    _ values: TensorView, rowOfSlot: TensorView, into rowValues: TensorView
  ) throws(EngineError) {
    if rowValues.dtype == .f64 {
      scatter(values, rowOfSlot, Elements<Double>(rowValues))
    } else {
      scatter(values, rowOfSlot, Elements<Float>(rowValues))
    }
  }

  /// values[t,k] = Σ_i partials[rowOfSlot[t,k],i].
  public func gatherFromRows(
    _ partials: TensorView, rowOfSlot: TensorView, into values: TensorView
  ) throws(EngineError) {
    if partials.dtype == .f64 {
      gather(Elements<Double>(partials), partials.shape, rowOfSlot, values)
    } else {
      gather(Elements<Float>(partials), partials.shape, rowOfSlot, values)
    }
  }

  /// sums[r] = Σ_i partials[r,i].
  public func sumPartials(_ partials: TensorView, into sums: TensorView) throws(EngineError) {
    if partials.dtype == .f64 {
      sum(Elements<Double>(partials), partials.shape, Elements<Double>(sums))
    } else {
      sum(Elements<Float>(partials), partials.shape, Elements<Float>(sums))
    }
  }

  /// products[r] = ⟨left[r], right[r]⟩.
  public func rowDot(
    _ left: ExpertRows, _ right: ExpertRows, groups: RowGroups, into products: ExpertRows
  ) throws(EngineError) {
    let rows = try GroupRanges(
      groups, groupCount: groups.count, rowCount: products.capacity
    ).rowCount
    switch left.tensor.dtype {
    case .f32: dot(IndexedRows<Float>(left), IndexedRows(right), rows, IndexedRows(products))
    case .f64: dot(IndexedRows<Double>(left), IndexedRows(right), rows, IndexedRows(products))
    case .bf16: dot(IndexedRows<BFloat16>(left), IndexedRows(right), rows, IndexedRows(products))
    case .f16, .i32, .i64:
      throw Self.unsupported(left.tensor.dtype, by: "the gradient of topk_weights")
    }
  }

  private func scatter<R: Real>(
    _ values: TensorView, _ rowOfSlot: TensorView, _ rowValues: Elements<R>
  ) {
    let values = WideValues<R>(values)
    let slots = SlotRows(rowOfSlot, rowCount: rowValues.count)
    for slot in 0..<slots.slotCount {
      if let row = slots[slot] { rowValues[row] = values[slot] }
    }
  }

  private func gather<R: Real>(
    _ partials: Elements<R>, _ shape: [Int], _ rowOfSlot: TensorView, _ values: TensorView
  ) {
    let slots = SlotRows(rowOfSlot, rowCount: shape[0])
    let sums = [R](count: slots.slotCount) { sums in
      pool.forEachRange(of: slots.slotCount, grain: Self.grain(elementsPerItem: shape[1])) {
        for slot in $0 {
          if let row = slots[slot] { sums[slot] = partials.row(row, width: shape[1]).sum() }
        }
      }
    }
    values.store(sums)
  }

  private func sum<R: Real>(_ partials: Elements<R>, _ shape: [Int], _ sums: Elements<R>) {
    for row in 0..<shape[0] { sums[row] = partials.row(row, width: shape[1]).sum() }
  }

  private func dot<S: RowScalar>(
    _ left: IndexedRows<S>, _ right: IndexedRows<S>, _ rows: Int, _ products: IndexedRows<S.Wide>
  ) {
    pool.forEachRange(of: rows, grain: Self.grain(elementsPerItem: left.width)) {
      for row in $0 { products[row][0] = left[row].dot(right[row]) }
    }
  }
}
