import AutoEPCPU
import AutoEPCore
import AutoEPSystem
import Testing

@Suite struct SortTests {
  @Test(arguments: [(0, 1, 1), (1, 1, 1), (3, 2, 5), (65, 8, 17), (300, 2, 256)])
  func sortsStably(numTokens: Int, topK: Int, numExperts: Int) throws {
    var random = Random(41)
    let choice = (0..<numTokens * topK).map { _ in Int.random(in: 0..<numExperts, using: &random) }
    try checkSort(choice, topK: topK, numExperts: numExperts)
  }

  @Test(arguments: [(1, 1, 1), (3, 2, 5), (65, 8, 17), (300, 2, 256)])
  func slotsWithoutAnExpertHaveNoRow(numTokens: Int, topK: Int, numExperts: Int) throws {
    var random = Random(42)
    let choice = (0..<numTokens * topK).map { _ in Int.random(in: -1..<numExperts, using: &random) }
    try checkSort(choice, topK: topK, numExperts: numExperts)
    for place in [0, choice.count / 2, choice.count - 1] {
      var choice = choice.map { max($0, 0) }
      choice[place] = -1
      try checkSort(choice, topK: topK, numExperts: numExperts)
    }
  }

  @Test func sortsWhenAllChooseOneExpert() throws {
    try checkSort(Array(repeating: 2, count: 12), topK: 3, numExperts: 4)
  }

  @Test func sortsWhenNoSlotHasAnExpert() throws {
    try checkSort(Array(repeating: -1, count: 12), topK: 3, numExperts: 4)
  }

  @Test(arguments: [-2, 3, Int(Int32.max), Int(Int32.min)])
  func refusesTheFirstExpertOutside(expert: Int) throws {
    for dtype in [DataType.i32, .i64] {
      let topkIdx = Tensor(integers: [0, -1, 1, expert, -9, 0], [3, 2], dtype)
      let error = try #require(throws: EngineError.self) {
        var arena = Arena.none
        try CPUBackend(numThreads: 2).sort(
          topkIdx.view, numExperts: 3,
          into: SlotSort(
            offsets: Tensor([4], .i32).view, rowOfSlot: Tensor([3, 2], .i32).view,
            slotOfRow: Tensor([6], .i32).view, tokensPerExpert: Tensor([3], .i32).view), &arena)
      }
      #expect(error.kind == .invalidArgument)
      #expect(error.message.contains("\(expert) at slot 3"), "\(error)")
      #expect(error.message.contains("0 to 2, or -1"), "\(error)")
    }
  }

  private func checkSort(_ choice: [Int], topK: Int, numExperts: Int) throws {
    let shape = [choice.count / topK, topK]
    let slots = choice.indices.filter { choice[$0] >= 0 }
      .sorted { (choice[$0], $0) < (choice[$1], $1) }
    let counts = (0..<numExperts).map { expert in choice.filter { $0 == expert }.count }
    for dtype in [DataType.i32, .i64] {
      let (rowOfSlot, slotOfRow) = (Tensor(shape, .i32), Tensor([choice.count], .i32))
      let (offsets, tokensPerExpert) = (Tensor([numExperts + 1], .i32), Tensor([numExperts], .i32))
      let onlyRows = Tensor(shape, .i32)
      let topkIdx = Tensor(integers: choice, shape, dtype).view
      let backend = try CPUBackend(numThreads: 2)
      var arena = Arena.none
      try backend.sort(
        topkIdx, numExperts: numExperts,
        into: SlotSort(
          offsets: offsets.view, rowOfSlot: rowOfSlot.view, slotOfRow: slotOfRow.view,
          tokensPerExpert: tokensPerExpert.view), &arena)
      try backend.sort(
        topkIdx, numExperts: numExperts,
        into: SlotSort(
          offsets: nil, rowOfSlot: onlyRows.view, slotOfRow: nil, tokensPerExpert: nil), &arena)
      var rows = [Int](repeating: -1, count: choice.count)
      for (row, slot) in slots.enumerated() { rows[slot] = row }
      #expect(rowOfSlot.integers == rows)
      #expect(onlyRows.integers == rows)
      #expect(Array(slotOfRow.integers.prefix(slots.count)) == slots)
      #expect(tokensPerExpert.integers == counts)
      let ends = (0...numExperts).map { counts.prefix($0).reduce(0, +) }
      #expect(offsets.integers == ends)
    }
  }
}
