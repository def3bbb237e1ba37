import AutoEPCore
import AutoEPSystem

extension CPUBackend {
  /// Sorts the slots by expert (stable counting sort); throws for an index that is neither an expert nor -1.
  public func sort(
    _ topkIdx: TensorView, numExperts: Int, into sort: SlotSort, _ arena: inout Arena
  ) throws(EngineError) {
    switch topkIdx.dtype {
    case .i32: try self.sort(Elements<Int32>(topkIdx), numExperts, sort)
    case .i64: try self.sort(Elements<Int64>(topkIdx), numExperts, sort)
    case .f32, .f64, .bf16, .f16: throw Self.unsupported(topkIdx.dtype, by: "the sort by expert")
    }
  }

  /// None: the counts are few.
  public func sortScratchBytes(numExperts: Int) -> Int { 0 }

  private func sort<Index: FixedWidthInteger>(
    _ topkIdx: Elements<Index>, _ numExperts: Int, _ sort: SlotSort
  ) throws(EngineError) {
    var nextRows = try counts(topkIdx, numExperts)
    if let counts = sort.tokensPerExpert.map({ Elements<Int32>($0) }) {
      for expert in 0..<numExperts { counts[expert] = nextRows[expert] }
    }
    var first: Int32 = 0
    for expert in 0..<numExperts { (nextRows[expert], first) = (first, first + nextRows[expert]) }
    if let offsets = sort.offsets.map({ Elements<Int32>($0) }) {
      for expert in 0..<numExperts { offsets[expert] = nextRows[expert] }
      offsets[numExperts] = first
    }
    let rowOfSlot = Elements<Int32>(sort.rowOfSlot)
    let slotOfRow = sort.slotOfRow.map { Elements<Int32>($0) }
    unsafe nextRows.withUnsafeMutableBufferPointer { nextRows in
      for slot in 0..<topkIdx.count {
        let expert = topkIdx[slot]
        guard expert >= 0 else {
          rowOfSlot[slot] = -1
          continue
        }
        let row = unsafe nextRows[Int(expert)]
        unsafe nextRows[Int(expert)] = row + 1
        rowOfSlot[slot] = row
        slotOfRow?[Int(row)] = Int32(slot)
      }
    }
  }

  /// Counts the slots of each expert.
  private func counts<Index: FixedWidthInteger>(
    _ topkIdx: Elements<Index>, _ numExperts: Int
  ) throws(EngineError) -> [Int32] {
    var counts = [Int32](repeating: 0, count: numExperts)
    for slot in 0..<topkIdx.count {
      let expert = topkIdx[slot]
      if expert == -1 { continue }
      guard expert >= 0, expert < numExperts else {
        throw EngineError(
          .invalidArgument,
          "topk_idx holds \(expert) at slot \(slot); expected 0 to \(numExperts - 1), or -1 for no"
            + " expert")
      }
      counts[Int(expert)] += 1
    }
    return counts
  }
}
