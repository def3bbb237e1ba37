import AutoEPSystem

extension ComputeBackend {
  /// Computes `y` and `dots` of `TokenDispatcher.combine` from rows `[R,H]` in the order of `rowOfSlot`.
  func combineSlots(
    _ rows: TensorView, weights: TensorView?, _ rowOfSlot: TensorView, into y: TensorView?,
    dots: SlotDots?
  ) throws(EngineError) {
    if let dots {
      try slotDot(dots.tokens, rows, rowOfSlot: rowOfSlot, into: dots.into)
    }
    if let y { try unpermute(rows, rowOfSlot: rowOfSlot, weights: weights, into: y) }
  }
}
