import AutoEPCore
import AutoEPDeviceLaws
import AutoEPSystem
import AutoEPTransportLaws
import FakeCUDA
import Glibc
import Testing

@testable import AutoEPPush

/// The laws of transports, through the code that GPUs run but for the kernels' loops.
@Suite(.enabled(if: InstalledNVRTC.path != nil, Comment(rawValue: InstalledNVRTC.advice)))
struct PushLawTests {
  @Test func hostMemory() throws {
    let fake = try FakePush()
    try checkTransport { try fake.makeWorld(size: $0) }
  }

  /// The laws' largest messages have two million bytes: one chunk, two, and many more than there are slots.
  @Test(arguments: [(2 << 20, 4), (1 << 20, 1), (64 << 10, 2)])
  func deviceMemory(chunkBytes: Int, slots: Int) throws {
    let fake = try FakePush()
    try checkTransport { size in
      try fake.makeWorld(size: size, chunkBytes: chunkBytes, slots: slots).map {
        OnDeviceTransport($0, fake.memory, stream: UInt(1 + $0.rank))
      }
    }
  }

  @Test("rows that the host waits for, in the device's memory")
  func awaitedRows() throws {
    let fake = try FakePush()
    let world = try fake.makeWorld(size: 3)
    try runRanks(world) { rank in
      let rows = (0..<3).map { 100 * rank.rank + 3000 * $0 }
      let arriving = (0..<3).map { 100 * $0 + 3000 * rank.rank }
      let sent = (0..<3).flatMap { [UInt8](repeating: UInt8(10 * rank.rank + $0), count: rows[$0]) }
      let receive = try fake.memory.allocate([UInt8](repeating: 0, count: arriving.reduce(0, +)))
      try rank.exchange(
        RowExchange(
          send: fake.memory.allocate(sent), sendRows: rows, receive: receive,
          receiveRows: arriving, rowBytes: 1, step: "awaited"))
      let expected = (0..<3).flatMap {
        [UInt8](repeating: UInt8(10 * $0 + rank.rank), count: arriving[$0])
      }
      #expect(try fake.memory.bytes(at: receive, count: expected.count) == expected)
    }
  }

  @Test(
    "many chunks in one direction, and few in the other: the sender waits for room",
    arguments: [1, 2, 3])
  func unevenMessages(slots: Int) throws {
    let fake = try FakePush()
    let world = try fake.makeWorld(size: 3, slots: slots)
    try runRanks(world) { rank in
      for exchange in 0..<20 {
        // Up to 61 chunks, and often none.
        func count(_ source: Int, _ target: Int) -> Int {
          let number = (7 * exchange + 5 * source + 3 * target) % 11
          return number < 5 ? 0 : (number - 4) * (number - 4) * 1777
        }
        func part(_ source: Int, _ target: Int) -> [UInt8] {
          (0..<count(source, target)).map {
            UInt8(truncatingIfNeeded: $0 &* 7 + $0 / 1024 + 50 * source + 20 * target + exchange)
          }
        }
        let receiveRows = (0..<3).map { count($0, rank.rank) }
        let receive = try fake.memory.allocate(
          [UInt8](repeating: 0, count: receiveRows.reduce(0, +)))
        try rank.exchange(
          RowExchange(
            send: fake.memory.allocate((0..<3).flatMap { part(rank.rank, $0) }),
            sendRows: (0..<3).map { count(rank.rank, $0) }, receive: receive,
            receiveRows: receiveRows, rowBytes: 1, step: "uneven", queue: .stream(1)))
        let received = try fake.memory.bytes(at: receive, count: receiveRows.reduce(0, +))
        #expect(received == (0..<3).flatMap { part($0, rank.rank) })
      }
    }
  }

  @Test("two launches per small exchange; more streams than one wait for each other")
  func launches() throws {
    let fake = try FakePush()
    let world = try fake.makeWorld(size: 2)
    try runRanks(world) { rank in
      for _ in 0..<10 {
        _ = try fake.start(rank, "small", send: [100, 100], receive: [100, 100], stream: 1)
      }
    }
    #expect(fake.launches == 2 * 10 * 2)
    #expect(fake.state.pointee.waits == 0)
    try runRanks(world) { rank in
      for stream in [2, 2, 3] as [UInt] {
        _ = try fake.start(rank, "small", send: [0, 0], receive: [0, 0], stream: stream)
      }
    }
    #expect(fake.state.pointee.waits == 2 * 2)
  }

  @Test("nothing of a group stays: no memory, no mapping")
  func releases() throws {
    let fake = try FakePush()
    do {
      let world = try fake.makeWorld(size: 4)
      #expect(fake.state.pointee.mappings == 16)
      // Released once they are mapped.
      #expect(fake.state.pointee.memories == 0)
      try runRanks(world) { rank in
        let rows = [10, 10, 10, 10]
        _ = try fake.start(rank, "small", send: rows, receive: rows)
      }
    }
    try waitUntil { fake.state.pointee.mappings == 0 }
  }
}

/// Waits for what another thread does, at most ten seconds.
func waitUntil(_ hasHappened: () -> Bool) throws {
  let deadline = Deadline(seconds: 10)
  while !hasHappened() {
    try #require(!deadline.hasPassed)
    usleep(1000)
  }
}
