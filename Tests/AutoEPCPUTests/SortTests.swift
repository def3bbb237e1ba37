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

  @Test func sortsWhenAllChooseOneExpert() throws {
    try checkSort(Array(repeating: 2, count: 12), topK: 3, numExperts: 4)
  }

  @Test(arguments: [-1, 3, Int(Int32.max), Int(Int32.min)])
  func refusesTheFirstExpertOutside(expert: Int) throws {
    let topkIdx = Tensor(integers: [0, 2, 1, expert, -9, 0], [3, 2])
    let error = try #require(throws: EngineError.self) {
      try CPUBackend(numThreads: 2).sortByExpert(
        topkIdx: topkIdx.view, numExperts: 3, rowOfSlot: Tensor([3, 2], .i32).view,
        tokensPerExpert: Tensor([3], .i32).view)
    }
    #expect(error.kind == .invalidArgument)
    #expect(error.message.contains("\(expert) at slot 3"), "\(error)")
  }

  private func checkSort(_ choice: [Int], topK: Int, numExperts: Int) throws {
    let shape = [choice.count / topK, topK]
    for dtype in [DataType.i32, .i64] {
      let rowOfSlot = Tensor(shape, .i32)
      let tokensPerExpert = Tensor([numExperts], .i32)
      try CPUBackend(numThreads: 2).sortByExpert(
        topkIdx: Tensor(integers: choice, shape, dtype).view, numExperts: numExperts,
        rowOfSlot: rowOfSlot.view, tokensPerExpert: tokensPerExpert.view)
      let slots = choice.indices.sorted { (choice[$0], $0) < (choice[$1], $1) }
      let rows = rowOfSlot.integers
      #expect(slots.map { rows[$0] } == Array(slots.indices))
      #expect(
        tokensPerExpert.integers == (0..<numExperts).map { e in choice.filter { $0 == e }.count })
    }
  }
}
