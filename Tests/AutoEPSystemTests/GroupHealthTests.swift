import AutoEPSystem
import Testing

@Suite struct GroupHealthTests {
  @Test("keeps the first failure, and refuses later calls with its message and ranks")
  func firstFailure() throws {
    let health = GroupHealth()
    try health.check(step: "dispatch", rank: 0)
    #expect(health.failure == nil)

    health.record(.missingRanks([1, 3], step: "dispatch", rank: 0, size: 4, seconds: 2))
    health.record(EngineError(.internal, "a later failure"))
    let first = try #require(health.failure)
    #expect(first.kind == .timeout)
    #expect(first.step == "dispatch")
    #expect(first.ranks == [1, 3])

    let refusal = try #require(throws: EngineError.self) {
      try health.check(step: "combine", rank: 2)
    }
    #expect(refusal.kind == .communication)
    #expect(refusal.step == "combine")
    #expect(refusal.ranks == [1, 3])
    #expect(refusal.message.contains("combine: rank 2 cannot use its group"))
    #expect(refusal.message.contains("dispatch: rank 0 of 4 waited 2.0 s for ranks 1, 3"))
  }
}
