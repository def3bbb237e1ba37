import AutoEPCore
import AutoEPSystem
import AutoEPTransportLaws
import FakeCUDA
import Testing

@testable import AutoEPPush

/// A group that cannot be opened: every rank gets an error, none waits, and the control transport goes on.
@Suite(.enabled(if: InstalledNVRTC.path != nil, Comment(rawValue: InstalledNVRTC.advice)))
struct PushOpeningTests {
  @Test("ranks on other hosts")
  func otherHost() throws {
    let fake = try FakePush()
    let errors = try refusals(fake) { control throws(EngineError) in
      try fake.join(control, hostName: control.rank == 2 ? "far-away" : "here")
    }
    for error in errors {
      #expect(error.kind == .unsupported)
      #expect(
        error.message.contains("rank 0 of 3: it runs on host here, and rank 2 on host far-away"))
    }
  }

  @Test("GPUs that do not reach each other, or do not see each other", arguments: [true, false])
  func noReach(hides: Bool) throws {
    let fake = try FakePush()
    if hides { fake.state.pointee.hidesNames = 1 } else { fake.state.pointee.reachesNoPeer = 1 }
    let errors = try refusals(fake) { control throws(EngineError) in
      try fake.join(control, device: control.rank == 1 ? 1 : 0)
    }
    for error in errors {
      #expect(error.kind == .unsupported)
      #expect(error.message.contains("does not reach the memory of rank 1's GPU"))
    }
  }

  @Test("memory that is not there, memory that cannot be mapped")
  func noMemory() throws {
    let fake = try FakePush()
    fake.state.pointee.failsCreateWith = 2
    let errors = try refusals(fake) { control throws(EngineError) in try fake.join(control) }
    for error in errors {
      #expect(error.kind == .outOfMemory)
      #expect(error.message.contains("rank 0 of 3: cuMemCreate of"))
    }
    fake.state.pointee.failsCreateWith = 0
    fake.state.pointee.failsImportWith = 801
    for error in try refusals(fake, { control throws(EngineError) in try fake.join(control) }) {
      #expect(error.message.contains("cuMemImportFromShareableHandle"))
    }
    #expect(fake.state.pointee.memories == 0 && fake.state.pointee.mappings == 0)
  }

  @Test("a failure of one rank is the others' too, with its number")
  func oneRank() throws {
    let fake = try FakePush()
    let errors = try refusals(fake) { control throws(EngineError) in
      try fake.join(control, timeout: control.rank == 1 ? 0 : 60)
    }
    for error in errors {
      #expect(error.kind == .invalidArgument)
      #expect(error.message.hasPrefix("opening of a push group: rank 1 of 3: timeout"))
    }
    let sizes = try refusals(fake) { control throws(EngineError) in
      try fake.join(control, chunkBytes: control.rank == 1 ? 4096 : 1024)
    }
    for error in sizes {
      #expect(error.kind == .invalidArgument)
      #expect(error.message.contains("rank 1 has 2 slots of 4096 bytes, and rank 0 2 of 1024"))
    }
  }

  @Test("sizes that cannot be", arguments: [(0, 1), (1 << 31, 1), (1024, 0), (1024, 65)])
  func sizes(chunkBytes: Int, slots: Int) throws {
    let fake = try FakePush()
    for error in try refusals(
      fake,
      { control throws(EngineError) in
        try fake.join(control, chunkBytes: chunkBytes, slots: slots)
      })
    {
      #expect(error.kind == .invalidArgument)
    }
  }

  @Test("a rank that never joins is named")
  func missingRank() throws {
    let fake = try FakePush()
    let control = try InProcessTransport.makeWorld(size: 2, timeout: 0.2)[0]
    let error = try failureOf { _ = try fake.join(control, timeout: 0.2) }
    #expect(error.kind == .timeout && error.ranks == [1])
    #expect(error.message.contains("opening of a push group"))
  }

  /// The errors of three ranks, whose control transport works afterwards.
  private func refusals(
    _ fake: FakePush,
    _ join: @escaping @Sendable (any Transport) throws(EngineError) -> PushTransport
  ) throws -> [EngineError] {
    let outcomes = try fake.join(size: 3) { control in
      do throws(EngineError) {
        return try join(control)
      } catch {
        try control.barrier()
        throw error
      }
    }
    return try outcomes.map { outcome in try failureOf { _ = try outcome.get() } }
  }
}
