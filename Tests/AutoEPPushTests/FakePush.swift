import AutoEPCore
import AutoEPDeviceLaws
import AutoEPSystem
import FakeCUDA

@testable import AutoEPCUDA
@testable import AutoEPPush

/// The driver of Tests/FakeDriver, whose memory the ranks share as those of several processes would.
final class FakePush: @unchecked Sendable {
  /// As in fake_memory.c.
  struct State {
    var failsCreateWith: Int32
    var failsImportWith: Int32
    var reachesNoPeer: Int32
    var hidesNames: Int32
    var memories: Int32
    var mappings: Int32
    var waits: Int32
  }

  let state: UnsafeMutablePointer<State>
  let memory: DeviceMemory
  let devices: [CUDADevice]
  private let file: FakeDriverLibrary
  private let countLaunches: @convention(c) (UnsafePointer<CChar>) -> Int32
  private let driverState: UnsafeMutablePointer<Int32>

  init() throws {
    file = try FakeDriverLibrary()
    let opened = try DynamicLibrary(opening: file.path)
    let getState: @convention(c) () -> UnsafeMutableRawPointer = try opened.function("fake_sharing")
    state = getState().assumingMemoryBound(to: State.self)
    countLaunches = try opened.function("fake_driver_launches_of")
    let getDriver: @convention(c) () -> UnsafeMutableRawPointer = try opened.function("fake_driver")
    driverState = getDriver().assumingMemoryBound(to: Int32.self)
    memory = try DeviceMemory(ordinal: 0, driver: file.path)
    let driver = try CUDADriver(opening: file.path)
    let compiler = KernelCompiler(
      library: try NVRTCLibrary.find(environment: InstalledNVRTC.path, path: nil),
      cache: KernelCache(folder: file.folder.appending(path: "cache").path), driverVersion: 13000)
    devices = try (0..<2).map { try CUDADevice($0, driver, compiler) }
    // Compiled here, so that no deadline of a test includes it.
    for device in devices { _ = try PushKernels(device) }
  }

  /// Makes every launch fail with a result of the driver, or none (0).
  func failLaunches(with result: Int32) { driverState[1] = result }

  /// The launches of both kernels so far.
  var launches: Int {
    Int(countLaunches("push_signal_and_wait") + countLaunches("push_give_back_and_wait"))
  }

  /// One rank of a group.
  func join(
    _ control: any Transport, timeout: Double = 60, chunkBytes: Int = 1024, slots: Int = 2,
    device: Int? = nil, hostName: String? = nil
  ) throws(EngineError) -> PushTransport {
    try PushTransport(over: control, timeout: timeout, chunkBytes: chunkBytes, slots: slots) {
      () throws(EngineError) in
      let device = devices[device ?? 0]
      let place = try PushPlace(device)
      return (
        device,
        PushPlace(
          bootID: place.bootID, hostName: hostName ?? place.hostName, gpu: place.gpu)
      )
    }
  }

  /// All ranks of a group over threads, which join at once.
  ///
  /// - Parameter controlTimeout: The deadline of exchanges of the host's memory.
  func makeWorld(
    size: Int, timeout: Double = 60, controlTimeout: Double = 60, chunkBytes: Int = 1024,
    slots: Int = 2
  ) throws -> [PushTransport] {
    try join(size: size, timeout: controlTimeout) { [self] control in
      try join(control, timeout: timeout, chunkBytes: chunkBytes, slots: slots)
    }.map { try $0.get() }
  }

  /// What becomes of the ranks that join in threads of their own.
  func join(
    size: Int, timeout: Double = 60,
    _ body: @escaping @Sendable (InProcessTransport) throws -> PushTransport
  ) throws -> [Result<PushTransport, any Error>] {
    let ranks = Monitor<[Int: Result<PushTransport, any Error>]>([:])
    for control in try InProcessTransport.makeWorld(size: size, timeout: timeout) {
      _ = startDetachedThread {
        let outcome = Result { try body(control) }
        ranks.change { $0[control.rank] = outcome }
      }
    }
    let joined = ranks.wait { $0.count == size ? $0 : nil }
    return (0..<size).compactMap { joined[$0] }
  }

  /// Starts an exchange of device memory on a stream, with as many bytes to and from each rank as told.
  func start(
    _ transport: any Transport, _ step: String, send: [Int], receive: [Int], stream: UInt = 0
  ) throws -> Storage {
    let received = try memory.allocate([UInt8](repeating: 0, count: receive.reduce(0, +)))
    try transport.start(
      RowExchange(
        send: memory.allocate([UInt8](repeating: 7, count: send.reduce(0, +))), sendRows: send,
        receive: received, receiveRows: receive, rowBytes: 1, step: step, queue: .stream(stream))
    ).wait()
    return received
  }
}
