import AutoEPCallback
import AutoEPCore
import AutoEPSystem
import AutoEPTransportLaws
import CAutoEP
import Testing

@Suite("Callback transport")
struct CallbackTransportTests {
  let host = ScriptedHost()

  @Test func missingRanksAreNamed() throws {
    host.waitCode = AUTOEP_ERROR_TIMEOUT
    host.missing = [2]
    let transport = try CallbackTransport(host.table(), timeout: 1.5)
    try checkMissingRank(2, at: transport, seconds: 1.5)
    #expect(host.deadlines == [1.5])
    #expect(host.starts == 1)
  }

  @Test func hostsReasonIsPassedOn() throws {
    host.message = "the socket is closed"
    host.startCode = 42
    let transport = try CallbackTransport(host.table(), timeout: 1)
    let error = try failure(of: "start") { () throws(EngineError) in
      try transport.barrier(step: "dispatch")
    }
    #expect(error.kind == .communication)
    #expect(
      error.message
        == "dispatch: rank 0: the transport's start returned 42: the socket is closed")
    #expect(host.waits == 0)
    try checkRefusal(at: transport)
  }

  @Test func failedWaitEndsTheGroup() throws {
    host.message = String(repeating: "x", count: Int(AUTOEP_ERROR_MESSAGE_SIZE))
    host.waitCode = AUTOEP_ERROR_COMMUNICATION
    let transport = try CallbackTransport(host.table(), timeout: 1)
    let error = try failure(of: "wait") { () throws(EngineError) in try transport.barrier() }
    #expect(error.message.contains("wait returned 5: xxx"))
    try checkRefusal(at: transport)
  }

  @Test func anAbortIsNotTheHosts() throws {
    let transport = try CallbackTransport(host.table(), timeout: 1)
    let pending = try transport.start(
      RowExchange(
        send: nil, sendRows: [0, 0, 0], receive: nil, receiveRows: [0, 0, 0], rowBytes: 8,
        step: "dispatch"))
    transport.abort(EngineError(.internal, "the trainer gave up"))
    let error = try failure(of: "wait") { () throws(EngineError) in try pending.wait() }
    #expect(error.kind == .communication)
    #expect(error.message.contains("the trainer gave up"))
    try checkRefusal(at: transport)
    #expect(host.starts == 1)
  }

  @Test func whatTheHostIsGiven() throws {
    let transport = try CallbackTransport(host.table(), timeout: 1)
    let (send, receive) = (
      UnsafeMutableRawPointer(bitPattern: 64), UnsafeMutableRawPointer(bitPattern: 4096)
    )
    try transport.exchange(
      RowExchange(
        send: send, sendRows: [1, 0, 2], receive: receive, receiveRows: [4, 5, 6], rowBytes: 24,
        step: "dispatch"))
    let given = try #require(host.exchange)
    #expect(given.structSize == MemoryLayout<autoep_exchange>.size)
    #expect(given.send == UnsafeRawPointer(send) && given.receive == receive)
    #expect(given.sendRows == [1, 0, 2] && given.receiveRows == [4, 5, 6])
    #expect(given.rowBytes == 24)
  }

  @Test func abandonedExchangeIsReleased() throws {
    let transport = try CallbackTransport(host.table(size: 1), timeout: 1)
    _ = try transport.start(
      RowExchange(
        send: nil, sendRows: [0], receive: nil, receiveRows: [0], rowBytes: 8, step: "dispatch"))
    #expect(host.waits == 1)
    #expect(host.deadlines == [0])
  }

  @Test func callsOfSeveralThreadsDoNotOverlap() throws {
    let transport = try CallbackTransport(host.table(), timeout: 1)
    try runRanks(Array(repeating: transport, count: 4)) { transport in
      for _ in 0..<50 { try transport.barrier() }
    }
    #expect(host.starts == 200 && host.waits == 200)
    #expect(!host.sawOverlap)
  }

  @Test func stateIsReleasedOnceWithTheTransport() throws {
    do {
      let transport = try CallbackTransport(host.table(), timeout: 1)
      #expect(transport.size == 3)
      #expect(host.releases == 0)
    }
    #expect(host.releases == 1)
  }

  @Test(arguments: ["struct_size", "size", "rank", "start", "wait"])
  func wrongTablesAreRefused(field: String) throws {
    var table = host.table()
    switch field {
    case "struct_size": table.struct_size = 8
    case "size": table.size = 0
    case "rank": table.rank = 3
    case "start": table.start = nil
    default: table.wait = nil
    }
    let error = try failure(of: "init") { () throws(EngineError) in
      _ = try CallbackTransport(table, timeout: 1)
    }
    #expect(error.kind == .invalidArgument)
    #expect(error.message.contains(field))
    #expect(host.releases == 0, "the state stays the caller's")
  }

  @Test(arguments: [0, -1, Double.nan])
  func wrongTimeoutsAreRefused(timeout: Double) throws {
    let error = try failure(of: "init") { () throws(EngineError) in
      _ = try CallbackTransport(host.table(), timeout: timeout)
    }
    #expect(error.kind == .invalidArgument)
    #expect(host.releases == 0)
  }
}
