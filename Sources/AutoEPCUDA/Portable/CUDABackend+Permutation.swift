import AutoEPCore

extension CUDABackend {
  /// rows[rowOfSlot[t,k]] = weights[t,k] · x[t]; no weights: a copy. Slots without a row are skipped.
  public func permute(
    _ x: TensorView, rowOfSlot: TensorView, weights: TensorView?, into rows: TensorView
  ) throws(EngineError) {
    let access = RowAccess(x, rows)
    try kernel(.permute, "permute", access.defines + weightDefines(weights)).launch(
      grid: grid(rows: x.shape[0], vectors: access.count(x), perLane: 4), block: 256, on: stream,
      x, rowOfSlot, weights, rows, Int64(x.shape[0]), Int32(rowOfSlot.shape[1]),
      Int32(rows.shape[0]), Int32(access.count(x)))
  }

  /// y[t] = Σ_k weights[t,k] · rows[rowOfSlot[t,k]] in k order; no weights: a plain sum.
  public func unpermute(
    _ rows: TensorView, rowOfSlot: TensorView, weights: TensorView?, into y: TensorView
  ) throws(EngineError) {
    let access = RowAccess(y, rows)
    try kernel(.unpermute, "unpermute", access.defines + weightDefines(weights)).launch(
      grid: grid(rows: y.shape[0], vectors: access.count(y), perLane: 2), block: 256, on: stream,
      rows, rowOfSlot, weights, y, Int64(y.shape[0]), Int32(rowOfSlot.shape[1]),
      Int32(rows.shape[0]), Int32(access.count(y)))
  }

  /// gradWeights[t,k] = ⟨x[t], rows[rowOfSlot[t,k]]⟩.
  public func slotDot(
    _ x: TensorView, _ rows: TensorView, rowOfSlot: TensorView, into gradWeights: TensorView
  ) throws(EngineError) {
    let access = RowAccess(x, rows)
    let slots = rowOfSlot.elementCount
    try kernel(.slotDot, "slot_dot", access.defines + weightDefines(gradWeights)).launch(
      grid: LaunchSize((slots + 7) / 8), block: 256, on: stream, x, rows, rowOfSlot, gradWeights,
      Int64(slots), Int32(rowOfSlot.shape[1]), Int32(rows.shape[0]), Int32(access.count(x)))
  }

  /// sums [T,K] = each slot's sum of its row's `partials` [N,n] f32.
  func gatherPartials(
    _ partials: TensorView, rowOfSlot: TensorView, into sums: TensorView
  ) throws(EngineError) {
    let slots = rowOfSlot.elementCount
    try kernel(.gatherPartials, "gather_partials", weightDefines(sums)).launch(
      grid: LaunchSize((slots + 255) / 256), block: 256, on: stream, partials, rowOfSlot, sums,
      Int64(slots), Int32(partials.shape[0]), Int32(partials.shape[1]))
  }

  /// weights [N] f32 = the weight of each row's slot.
  func rowWeights(
    _ topkWeights: TensorView, slotOfRow: TensorView, into weights: TensorView
  ) throws(EngineError) {
    let rows = slotOfRow.elementCount
    try kernel(.rowWeights, "row_weights", weightDefines(topkWeights)).launch(
      grid: LaunchSize((rows + 255) / 256), block: 256, on: stream, topkWeights, slotOfRow,
      weights, Int64(rows))
  }

  /// A warp a row in blocks of 8; along y the row's parts of `perLane` vectors a lane.
  func grid(rows: Int, vectors: Int, perLane: Int) -> LaunchSize {
    LaunchSize((rows + 7) / 8, (vectors + 32 * perLane - 1) / (32 * perLane))
  }
}
