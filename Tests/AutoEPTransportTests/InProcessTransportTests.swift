import AutoEPCore
import AutoEPSystem
import AutoEPTransportLaws
import Glibc
import Testing

@Suite("In-process and self transports")
struct InProcessTransportTests {
  @Test func missingRankIsNamedByAllOthers() throws {
    let world = try InProcessTransport.makeWorld(size: 3, timeout: 1)
    try runRanks([world[0], world[1]]) { rank in
      try checkMissingRank(2, at: rank, seconds: 1)
    }
  }

  @Test func lateRankIsRefused() throws {
    let world = try InProcessTransport.makeWorld(size: 2, timeout: 0.2)
    try checkMissingRank(1, at: world[0], seconds: 0.2)
    try checkRefusal(at: world[1])
  }

  @Test func rowsThatGaveUpAreNotRead() throws {
    let world = try InProcessTransport.makeWorld(size: 2, timeout: 0.2)
    let rows = UnsafeMutableRawPointer.allocate(byteCount: 1 << 20, alignment: 8)
    let exchange = RowExchange(
      send: rows, sendRows: [0, 1 << 17], receive: nil, receiveRows: [0, 0], rowBytes: 8,
      step: "dispatch")
    let error = try failure(of: "dispatch") { () throws(EngineError) in
      try world[0].exchange(exchange)
    }
    rows.deallocate()
    #expect(error.kind == .timeout)
    try checkRefusal(at: world[1])
  }

  @Test func anAbortWakesRanksThatWait() throws {
    // Long, so that only the abort can wake the waiting ranks in time.
    let world = try InProcessTransport.makeWorld(size: 3, timeout: 60)
    let clock = ContinuousClock()
    let start = clock.now
    try runRanks(world) { rank in
      if rank.rank == 2 {
        usleep(100_000)
        return rank.abort(EngineError(.internal, "the trainer gave up"))
      }
      let error = try failure(of: "barrier") { () throws(EngineError) in
        try rank.barrier(step: "roll call")
      }
      try #require(error.kind == .communication, "\(error)")
      try #require(error.message.contains("the trainer gave up"), "\(error)")
    }
    #expect(clock.now - start < .seconds(30))
    for rank in world {
      #expect(rank.health === world[0].health)
      #expect(rank.health.failure?.message == "the trainer gave up")
      try checkRefusal(at: rank)
    }
  }

  @Test func healthTellsWhoWasMissing() throws {
    let world = try InProcessTransport.makeWorld(size: 2, timeout: 0.2)
    #expect(world[0].health.failure == nil)
    try checkMissingRank(1, at: world[0], seconds: 0.2)
    let failure = try #require(world[1].health.failure)
    #expect(failure.kind == .timeout)
    #expect(failure.step == "roll call" && failure.ranks == [1])
  }

  @Test(arguments: [2, 3, 4])
  func mismatchNamesBothRanks(size: Int) throws {
    let world = try InProcessTransport.makeWorld(size: size, timeout: 20)
    try runRanks(world) { try checkMismatch(at: $0) }
  }

  @Test func differentStepsAreAMismatch() throws {
    let world = try InProcessTransport.makeWorld(size: 2, timeout: 20)
    try runRanks(world) { rank in
      let step = rank.rank == 0 ? "dispatch" : "combine"
      let error = try failure(of: step) { () throws(EngineError) in
        try rank.barrier(step: step)
        try rank.barrier(step: step)
      }
      try #require(error.kind == .communication)
      try #require(error.message.contains("dispatch") && error.message.contains("combine"))
    }
  }

  @Test func selfMismatch() throws {
    let exchange = RowExchange(
      send: nil, sendRows: [2], receive: nil, receiveRows: [1], rowBytes: 0, step: "dispatch")
    let error = try failure(of: "dispatch") { () throws(EngineError) in
      try SelfTransport().exchange(exchange)
    }
    #expect(error.kind == .communication)
    #expect(error.message.contains("dispatch: rank 0 sends 2 rows"))
  }

  @Test(arguments: [(0, 1.0), (-1, 1), (1025, 1), (2, 0), (2, -1), (2, .nan), (2, .infinity)])
  func wrongWorldsAreRefused(size: Int, timeout: Double) throws {
    let error = try failure(of: "makeWorld") { () throws(EngineError) in
      _ = try InProcessTransport.makeWorld(size: size, timeout: timeout)
    }
    #expect(error.kind == .invalidArgument)
  }
}
