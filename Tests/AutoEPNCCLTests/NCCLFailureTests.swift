import AutoEPCore
import AutoEPSystem
import AutoEPTransportLaws
import CNCCL
import Foundation
import Testing

@testable import AutoEPNCCL

/// What goes wrong ends the group, with a text that says what and where.
@Suite struct NCCLFailureTests {
  @Test("a rank that does not come to an exchange is named at the deadline")
  func missingRank() throws {
    let fake = try FakeNCCL()
    let world = try fake.makeWorld(size: 2, timeout: 0.3)
    try checkMissingRank(1, at: world[0], seconds: 0.3)
    #expect(fake.state.pointee.aborted == 1)
    #expect(fake.state.pointee.misuses == 0)
  }

  @Test("a rank that never joins the group")
  func missingOpener() throws {
    let fake = try FakeNCCL()
    let id = try fake.library.uniqueID()
    let error = try #require(throws: EngineError.self) {
      _ = try fake.join(id, rank: 0, size: 2, timeout: 0.2)
    }
    #expect(error.kind == .timeout && error.ranks == [1])
    #expect(error.message.contains("opening of an NCCL group: rank 0 of 2 waited 0.2 s for rank 1"))
    #expect(fake.state.pointee.aborted == 1)
  }

  @Test("an exchange on a stream that never ends: the watch ends the group, and the stream goes on")
  func lateOnStream() throws {
    let fake = try FakeNCCL()
    let world = try fake.makeWorld(size: 2, timeout: 0.3)
    try startOnStream(world[0], fake, "dispatch of tokens").wait()
    try waitUntil { world[0].health.failure != nil }
    let failure = try #require(world[0].health.failure)
    #expect(failure.kind == .timeout && failure.step == "dispatch of tokens")
    #expect(failure.message.contains("rank 0 of 2 waited 0.3 s for rank 1"))
    try checkRefusal(at: world[0])
    // Its reading waits for the stream, which the abort has freed.
    _ = try fake.memory.bytes(at: fake.memory.allocate([1]), count: 1)
    #expect(fake.state.pointee.aborted == 1)
    #expect(fake.state.pointee.misuses == 0)
  }

  @Test("of more than two ranks NCCL does not tell which one is missing")
  func missingRankOfThree() throws {
    let fake = try FakeNCCL()
    let world = try fake.makeWorld(size: 3, timeout: 0.2)
    let error = try failure(of: "barrier") { () throws(EngineError) in
      try world[0].barrier(step: "roll call")
    }
    #expect(error.message.contains("roll call: rank 0 of 3 waited 0.2 s for another rank"))
    #expect(error.kind == .timeout && error.ranks.isEmpty)
  }

  @Test("an abort ends what another thread waits for, at once", arguments: [true, false])
  func abortFromAnotherThread(stalls: Bool) throws {
    let fake = try FakeNCCL()
    let world = try fake.makeWorld(size: 2)
    // Either the exchange never ends, or NCCL never says that it is enqueued.
    if stalls { fake.state.pointee.stalls = 1 } else { fake.state.pointee.pollsInProgress = .max }
    let outcome = Monitor<EngineError?>(nil)
    _ = startDetachedThread {
      let error = try? failure(of: "exchange") { () throws(EngineError) in
        try world[0].barrier(step: "roll call")
      }
      outcome.change { $0 = error ?? EngineError(.internal, "no error") }
    }
    try waitUntil { fake.state.pointee.groups == 1 }
    world[0].abort(EngineError(.internal, "the trainer gave up", ranks: [0]))
    let error = outcome.wait { $0 }
    #expect(error.kind == .communication && error.step == "roll call" && error.ranks == [0])
    #expect(error.message.contains("the trainer gave up"))
    #expect(fake.state.pointee.misuses == 0)
  }

  @Test("what NCCL refuses is an error with the call, NCCL's text and its last words")
  func refusedCall() throws {
    let fake = try FakeNCCL()
    let world = try fake.makeWorld(size: 2)
    fake.state.pointee.failsSendWith = nccl_system_error
    let error = try failure(of: "exchange") { () throws(EngineError) in
      try world[0].barrier(step: "roll call")
    }
    #expect(
      error.message
        == "roll call: rank 0 of 2: ncclSend: unhandled system error (the cable is out)")
    #expect(error.kind == .communication && error.step == "roll call")
    #expect(world[0].health.failure?.message == error.message)
    fake.state.pointee.failsSendWith = 0
    try checkRefusal(at: world[0])
    #expect(fake.state.pointee.misuses == 0)
  }

  @Test("a failure that NCCL reports later, of a waited exchange and of one on a stream")
  func lateFailure() throws {
    let fake = try FakeNCCL()
    let (first, second) = (try fake.makeWorld(size: 2), try fake.makeWorld(size: 2))
    try startOnStream(second[0], fake, "combine of results").wait()
    fake.state.pointee.asyncResult = nccl_remote_error
    try waitUntil { second[0].health.failure != nil }
    #expect(second[0].health.failure?.step == "combine of results")
    #expect(second[0].health.failure?.kind == .communication)
    let error = try failure(of: "exchange") { () throws(EngineError) in try first[0].barrier() }
    #expect(error.message.contains("the cable is out") && error.kind == .communication)
  }

  @Test("an exchange that nobody waits for leaves a group that works")
  func abandonedExchange() throws {
    let fake = try FakeNCCL()
    let world = try fake.makeWorld(size: 2)
    try runRanks(world) { transport in
      let one = [1, 1]
      var bytes = [UInt8](repeating: 0, count: 4)
      try bytes.withUnsafeMutableBytes { bytes in
        _ = try transport.start(
          RowExchange(
            send: UnsafeRawPointer(bytes.baseAddress), sendRows: one,
            receive: bytes.baseAddress! + 2, receiveRows: one, rowBytes: 1, step: "abandoned"))
      }
      for _ in 0..<10 { try transport.barrier() }
    }
  }

  @Test("rows cannot go from a device to the host's memory, nor own rows change in number")
  func wrongExchanges() throws {
    let fake = try FakeNCCL()
    let transport = try fake.makeWorld(size: 1)[0]
    let memory = try fake.memory.allocate([1, 2])
    var bytes: [UInt8] = [0, 0]
    try bytes.withUnsafeMutableBytes { bytes in
      let mixed = try failure(of: "mixed") { () throws(EngineError) in
        _ = try transport.start(
          RowExchange(
            send: memory, sendRows: [2], receive: .host(bytes.baseAddress), receiveRows: [2],
            rowBytes: 1, step: "mixed"))
      }
      #expect(mixed.kind == .unsupported)
    }
    let mismatch = try failure(of: "mismatch") { () throws(EngineError) in
      _ = try transport.start(
        RowExchange(
          send: memory, sendRows: [2], receive: memory, receiveRows: [1], rowBytes: 1,
          step: "own rows", queue: .stream(0)))
    }
    #expect(mismatch.message.contains("rank 0 sends 2 rows to rank 0, which expects 1"))
    try transport.barrier()
  }

  @Test("a library too old, one that is not there, and ids that cannot be made")
  func libraries() throws {
    let fake = try FakeNCCL()
    fake.state.pointee.failsIDWith = nccl_system_error
    let noID = #expect(throws: EngineError.self) { _ = try fake.library.uniqueID() }
    #expect(noID?.message == "ncclGetUniqueId: unhandled system error")
    fake.state.pointee.version = 21605
    let old = #expect(throws: LoaderError.self) { _ = try fake.open() }
    #expect(old?.reason.contains("is NCCL 2.16") == true)
    let absent = #expect(throws: EngineError.self) {
      _ = try NCCLLibrary.find(path: "/nowhere/libnccl.so.2")
    }
    #expect(absent?.kind == .missingLibrary)
    #expect(absent?.message.contains("/nowhere/libnccl.so.2") == true)
  }

  @Test("ranks, ids and deadlines that cannot be")
  func wrongArguments() throws {
    let fake = try FakeNCCL()
    let id = try fake.library.uniqueID()
    for (bytes, rank, size, timeout) in [
      (id, 2, 2, 1.0), (id, -1, 2, 1), (id, 0, 0, 1), ([1, 2], 0, 1, 1), (id, 0, 1, 0),
    ] {
      let error = #expect(throws: EngineError.self) {
        _ = try fake.join(bytes, rank: rank, size: size, timeout: timeout)
      }
      #expect(error?.kind == .invalidArgument)
    }
    #expect(fake.state.pointee.communicators == 0)
  }
}

/// Starts an exchange of device memory on the default stream, whose memory stays.
private func startOnStream(
  _ transport: NCCLTransport, _ fake: FakeNCCL, _ step: String
) throws -> any PendingExchange {
  let rows = Array(repeating: 2, count: transport.size)
  let bytes = [UInt8](repeating: 7, count: 2 * transport.size)
  return try transport.start(
    RowExchange(
      send: fake.memory.allocate(bytes), sendRows: rows, receive: fake.memory.allocate(bytes),
      receiveRows: rows, rowBytes: 1, step: step, queue: .stream(0)))
}

/// Waits for what another thread does, at most ten seconds.
func waitUntil(_ hasHappened: () -> Bool) throws {
  let deadline = Deadline(seconds: 10)
  while !hasHappened() {
    try #require(!deadline.hasPassed)
    usleep(1000)
  }
}
