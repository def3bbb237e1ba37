import AutoEPCore
import AutoEPDeviceLaws
import AutoEPSystem
import FakeCUDA

@testable import AutoEPCUDA
@testable import AutoEPNCCL

/// The driver and the NCCL of Tests/FakeDriver, for one test.
final class FakeNCCL: @unchecked Sendable {
  /// As in fake_nccl.c.
  struct State {
    var version: Int32
    var failsIDWith: Int32
    var failsSendWith: Int32
    var asyncResult: Int32
    var pollsInProgress: Int32
    var stalls: Int32
    var communicators: Int32
    var aborted: Int32
    var destroyed: Int32
    var groups: Int32
    var misuses: Int32
  }

  let state: UnsafeMutablePointer<State>
  let library: NCCLLibrary
  let memory: DeviceMemory
  private let driver: CUDADriver
  private let file: FakeDriverLibrary

  init() throws {
    file = try FakeDriverLibrary()
    let opened = try DynamicLibrary(opening: file.path)
    let getState: @convention(c) () -> UnsafeMutableRawPointer = try opened.function("fake_nccl")
    state = getState().assumingMemoryBound(to: State.self)
    library = try NCCLLibrary(opened)
    driver = try CUDADriver(opening: file.path)
    memory = try DeviceMemory(ordinal: 0, driver: file.path)
  }

  /// The same memory, whose reading waits for another stream than the default one.
  func memory(stream: UInt) throws -> DeviceMemory {
    try DeviceMemory(ordinal: 0, driver: file.path, stream: stream)
  }

  /// Opens the library once more.
  func open() throws -> NCCLLibrary { try NCCLLibrary(DynamicLibrary(opening: file.path)) }

  /// One rank of a group.
  func join(_ id: [UInt8], rank: Int, size: Int, timeout: Double = 60) throws -> NCCLTransport {
    try NCCLTransport(
      library, driver, uniqueID: id, rank: rank, size: size, device: 0, timeout: timeout)
  }

  /// All ranks of a group, which join in threads of their own.
  func makeWorld(size: Int, timeout: Double = 60) throws -> [NCCLTransport] {
    let id = try library.uniqueID()
    let ranks = Monitor<[Int: Result<NCCLTransport, any Error>]>([:])
    for rank in 0..<size {
      _ = startDetachedThread { [self] in
        let transport = Result { try join(id, rank: rank, size: size, timeout: timeout) }
        ranks.change { $0[rank] = transport }
      }
    }
    let joined = ranks.wait { $0.count == size ? $0 : nil }
    return try (0..<size).compactMap { try joined[$0]?.get() }
  }
}
