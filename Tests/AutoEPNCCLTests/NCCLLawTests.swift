import AutoEPCore
import AutoEPDeviceLaws
import AutoEPSystem
import AutoEPTransportLaws
import Testing

@testable import AutoEPNCCL

/// The laws of transports, through the code that GPUs run.
@Suite struct NCCLLawTests {
  @Test func hostMemory() throws {
    let fake = try FakeNCCL()
    try checkTransport { try fake.makeWorld(size: $0) }
    #expect(fake.state.pointee.misuses == 0)
  }

  @Test func deviceMemory() throws {
    let fake = try FakeNCCL()
    try checkTransport { size in
      try fake.makeWorld(size: size).map { rank in
        // Any number is a stream of the fake driver.
        let stream = UInt(1 + rank.rank)
        return OnDeviceTransport(rank, try fake.memory(stream: stream), stream: stream)
      }
    }
    #expect(fake.state.pointee.misuses == 0)
  }

  @Test("groups side by side, of which one is given up")
  func severalGroups() throws {
    let fake = try FakeNCCL()
    let (first, second) = (try fake.makeWorld(size: 3), try fake.makeWorld(size: 3))
    try runRanks(first) { try $0.barrier() }
    try runRanks(second, checkAbort)
    try checkTransport(sizes: [3]) { _ in first }
    #expect(fake.state.pointee.aborted == 6)
  }

  @Test("a communicator is destroyed once its transport is gone, and one that was aborted is not")
  func destruction() throws {
    let fake = try FakeNCCL()
    try fake.makeWorld(size: 2)[0].abort(EngineError(.internal, "enough"))
    try waitUntil { fake.state.pointee.destroyed == 1 }
    #expect(fake.state.pointee.aborted == 1)
    #expect(fake.state.pointee.misuses == 0)
  }
}
