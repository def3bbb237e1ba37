import AutoEPCore
import AutoEPLayerLaws
import AutoEPSystem

/// A transport whose exchanges of host memory go through memory of the device, on a stream, over the transport in it: the
/// laws of transports, which are in the host's memory, then check what happens on devices.
public final class OnDeviceTransport: Transport {
  private let base: any Transport
  private let memory: any LawMemory
  private let stream: UInt

  /// - Parameters:
  ///   - memory: Its reading waits for the stream.
  ///   - stream: By its handle.
  public init(_ base: any Transport, _ memory: any LawMemory, stream: UInt) {
    self.base = base
    self.memory = memory
    self.stream = stream
  }

  /// The rank of the wrapped transport.
  public var rank: Int { base.rank }
  /// The number of ranks of the wrapped transport.
  public var size: Int { base.size }
  /// The health of the wrapped transport.
  public var health: GroupHealth { base.health }

  /// Whether the wrapped transport reaches this memory.
  public func reaches(_ space: MemorySpace) -> Bool { base.reaches(space) }

  /// Ends the transport in it.
  public func abort(_ cause: EngineError) { base.abort(cause) }

  /// Copies the rows to the device, and starts there.
  public func start(_ exchange: RowExchange) throws(EngineError) -> any PendingExchange {
    try exchange.check(size: size)
    let (sends, receives) = (exchange.sendParts, exchange.receiveParts)
    let copies = try DeviceCopies(
      send: sends.flatMap { Array($0) }, receiveCount: receives.reduce(0) { $0 + $1.count }, memory)
    let pending = try base.start(
      RowExchange(
        send: copies.send, sendRows: exchange.sendRows, receive: copies.receive,
        receiveRows: exchange.receiveRows, rowBytes: exchange.rowBytes, step: exchange.step,
        queue: .stream(stream)))
    return OnDeviceExchange(pending, copies, into: receives)
  }
}

/// The rows of one exchange on the device.
private final class DeviceCopies {
  let send: Storage
  let receive: Storage
  private let memory: any LawMemory
  private let receiveCount: Int

  init(send bytes: [UInt8], receiveCount: Int, _ memory: any LawMemory) throws(EngineError) {
    self.memory = memory
    self.receiveCount = receiveCount
    send = try onDevice { try memory.allocate(bytes) }
    receive = try onDevice { try memory.allocate(Array(repeating: 0xDD, count: receiveCount)) }
  }

  deinit {
    memory.free(send)
    memory.free(receive)
  }

  func received() throws(EngineError) -> [UInt8] {
    try onDevice { try memory.bytes(at: receive, count: receiveCount) }
  }
}

private struct OnDeviceExchange: PendingExchange {
  private let pending: any PendingExchange
  private let copies: DeviceCopies
  private let parts: [UnsafeMutableRawBufferPointer]

  init(
    _ pending: any PendingExchange, _ copies: DeviceCopies,
    into parts: [UnsafeMutableRawBufferPointer]
  ) {
    self.pending = pending
    self.copies = copies
    self.parts = parts
  }

  func wait() throws(EngineError) {
    try pending.wait()
    var bytes = try copies.received()[...]
    for part in parts {
      part.copyBytes(from: bytes.prefix(part.count))
      bytes = bytes.dropFirst(part.count)
    }
  }
}

private func onDevice<Result>(_ body: () throws -> Result) throws(EngineError) -> Result {
  do {
    return try body()
  } catch {
    throw EngineError(.internal, "memory of the device: \(error)")
  }
}
