import AutoEPCore
import AutoEPSystem
import AutoEPTransportLaws
import FakeCUDA
import Testing

@testable import AutoEPPush

/// What goes wrong ends the group, with a text that says what and where.
@Suite(.enabled(if: InstalledNVRTC.path != nil, Comment(rawValue: InstalledNVRTC.advice)))
struct PushFailureTests {
  @Test("a rank that stays out of an exchange of the host's memory")
  func missingOnHost() throws {
    let fake = try FakePush()
    let world = try fake.makeWorld(size: 2, controlTimeout: 1)
    try checkMissingRank(1, at: world[0], seconds: 1.0)
  }

  @Test(
    "a rank that stays out of a stream's exchange is named at the deadline, on every other rank")
  func missingOnStream() throws {
    let fake = try FakePush()
    let world = try fake.makeWorld(size: 3, timeout: 1)
    let clock = ContinuousClock()
    let rows = [5000, 5000, 5000]
    try runRanks(Array(world.prefix(2))) { rank in
      let took = try clock.measure {
        _ = try fake.start(rank, "dispatch of tokens", send: rows, receive: rows)
      }
      #expect(took < .seconds(5))
      let failure = try #require(rank.health.failure)
      #expect(failure.kind == .timeout && failure.step == "dispatch of tokens")
      #expect(failure.ranks == [2])
      #expect(failure.message.contains("rank \(rank.rank) of 3 waited 1.0 s for rank 2"))
      try checkRefusal(at: rank)
      let later = try failureOf { _ = try fake.start(rank, "late", send: rows, receive: rows) }
      #expect(later.ranks == [2] && later.kind == .communication)
    }
    // It finds the others' notice, whatever it sends.
    _ = try fake.start(world[2], "dispatch of tokens", send: rows, receive: rows)
    let failure = try #require(world[2].health.failure)
    #expect(failure.kind == .communication)
    #expect(failure.message.contains("rank 2 of 3 came too late"))
  }

  @Test("a rank that stays out of what the host waits for")
  func missingAwaited() throws {
    let fake = try FakePush()
    let world = try fake.makeWorld(size: 2, timeout: 1)
    let memory = try fake.memory.allocate([1, 2])
    let error = try failureOf {
      try world[0].exchange(
        RowExchange(
          send: memory, sendRows: [1, 1], receive: memory, receiveRows: [1, 1], rowBytes: 1,
          step: "awaited"))
    }
    #expect(error.kind == .timeout && error.step == "awaited" && error.ranks == [1])
  }

  @Test(
    "ranks that disagree about their rows: both name the sender, also where the chunks are as many",
    arguments: [(100, 200), (3000, 3001), (2048, 4096), (0, 1), (1, 0)])
  func mismatch(sends: Int, expects: Int) throws {
    let fake = try FakePush()
    let world = try fake.makeWorld(size: 2)
    try runRanks(world) { rank in
      let isFirst = rank.rank == 0
      _ = try fake.start(
        rank, "dispatch of tokens", send: isFirst ? [0, 10] : [sends, 0],
        receive: isFirst ? [0, expects] : [10, 0])
      // The sender finds out in its next exchange at the latest.
      if rank.health.failure == nil {
        _ = try? fake.start(rank, "combine of results", send: [0, 0], receive: [0, 0])
      }
      let failure = try #require(rank.health.failure)
      #expect(failure.kind == .communication && failure.step == "dispatch of tokens")
      #expect(
        failure.message.contains("rank 1 sends \(sends) bytes to rank 0, which expects \(expects)"))
      try checkRefusal(at: rank)
    }
  }

  @Test("an abort ends what the device waits for, at once, and tells the other ranks")
  func abortDuringExchange() throws {
    let fake = try FakePush()
    let world = try fake.makeWorld(size: 2)
    let begin = ContinuousClock.now
    let isDone = Monitor(false)
    let first = world[0]
    _ = startDetachedThread {
      _ = try? fake.start(first, "dispatch of tokens", send: [0, 5], receive: [0, 5])
      isDone.change { $0 = true }
    }
    try waitUntil { fake.launches > 0 }
    world[0].abort(EngineError(.internal, "the trainer gave up", ranks: [0]))
    _ = isDone.wait { $0 ? true : nil }
    #expect(world[0].health.failure?.message == "the trainer gave up")
    try checkRefusal(at: world[0])
    #expect(ContinuousClock.now - begin < .seconds(10))
    // The control transport has told the other rank already, as its ranks are in one process.
    #expect(world[1].health.failure?.message == "the trainer gave up")
  }

  @Test("a launch that fails ends the group")
  func failedLaunch() throws {
    let fake = try FakePush()
    let world = try fake.makeWorld(size: 2)
    fake.failLaunches(with: 719)
    let error = try failureOf {
      _ = try fake.start(world[0], "dispatch of tokens", send: [0, 5], receive: [0, 5])
    }
    #expect(error.message.contains("dispatch of tokens: rank 0 of 2: cuLaunchKernelEx"))
    fake.failLaunches(with: 0)
    try checkRefusal(at: world[0])
  }

  @Test("rows cannot go from a device to the host's memory, nor own rows change in number")
  func wrongExchanges() throws {
    let fake = try FakePush()
    let transport = try fake.makeWorld(size: 1)[0]
    let memory = try fake.memory.allocate([1, 2])
    var bytes: [UInt8] = [0, 0]
    try bytes.withUnsafeMutableBytes { bytes in
      let mixed = try failureOf {
        _ = try transport.start(
          RowExchange(
            send: memory, sendRows: [2], receive: .host(bytes.baseAddress), receiveRows: [2],
            rowBytes: 1, step: "mixed"))
      }
      #expect(mixed.kind == .unsupported)
    }
    let mismatch = try failureOf {
      _ = try fake.start(transport, "own rows", send: [2], receive: [1])
    }
    #expect(mismatch.message.contains("rank 0 sends 2 rows to rank 0, which expects 1"))
    try transport.barrier()
  }
}

/// The error of `body`; throws if there is none.
func failureOf(_ body: () throws -> Void) throws -> EngineError {
  try #require(throws: EngineError.self, performing: body)
}
