public import AutoEPCore
public import AutoEPSystem
import AutoEPCUDA
import CNCCL

/// One rank of a group whose ranks are GPUs, over NVIDIA's NCCL, on any number of hosts.
///
/// Rows in the device's memory travel on the stream of the work that writes them; the host waits for nothing but NCCL's
/// word that they are enqueued. Numbers of the host (row counts, above all) take the same way by page-locked memory, on
/// a stream of the transport, so that a group needs no second transport beside this one; for these the host waits.
///
/// At the deadline of an exchange the communicator is aborted: NCCL's kernels end, and this rank refuses every later
/// call with the same story.
public final class NCCLTransport: Transport {
  /// This rank, in `0..<size`.
  public var rank: Int { group.rank }
  /// The number of ranks.
  public var size: Int { group.size }
  /// The health of the group, as far as this rank knows.
  public var health: GroupHealth { group.health }

  let group: NCCLGroup
  private let device: Int
  private let context: DeviceContext
  /// Of exchanges that the host waits for.
  private let stream: DeviceStream
  private let staging: StagingPool
  private let watch: NCCLWatch
  /// Held while an exchange is given to NCCL, which takes the next one only when that has succeeded.
  private let turn = Locked(())

  /// The bytes of `uniqueID`.
  public static let uniqueIDByteCount = Int(NCCL_ID_BYTES)

  /// The bytes by which the ranks of a new group find each other: one rank makes them, and hands them to the others.
  ///
  /// - Parameter libraryPath: Where NCCL is, if the process has not loaded it.
  public static func uniqueID(libraryPath: String?) throws(EngineError) -> [UInt8] {
    try NCCLLibrary.find(path: libraryPath).uniqueID()
  }

  /// Joins a group. Collective over its ranks.
  ///
  /// - Parameters:
  ///   - device: The ordinal of this rank's GPU, which no other rank has.
  ///   - timeout: How long the opening and each exchange wait for the other ranks, in seconds.
  public convenience init(
    uniqueID: [UInt8], rank: Int, size: Int, device: Int, timeout: Double, libraryPath: String?
  ) throws(EngineError) {
    try self.init(
      NCCLLibrary.find(path: libraryPath), CUDADriver.shared(), uniqueID: uniqueID, rank: rank,
      size: size, device: device, timeout: timeout)
  }

  init(
    _ library: NCCLLibrary, _ driver: CUDADriver, uniqueID: [UInt8], rank: Int, size: Int,
    device: Int, timeout: Double
  ) throws(EngineError) {
    try checkTimeout(timeout)
    guard size >= 1, (0..<size).contains(rank), uniqueID.count == Self.uniqueIDByteCount else {
      throw EngineError(
        .invalidArgument,
        "NCCL group: got rank \(rank) of \(size) and \(uniqueID.count) bytes of a unique id; expected"
          + " 0 <= rank < size and \(Self.uniqueIDByteCount) bytes")
    }
    self.device = device
    context = try DeviceContext(ordinal: device, driver)
    stream = try DeviceStream(in: context)
    staging = StagingPool(context)
    group = NCCLGroup(
      try NCCLCommunicator(library, uniqueID: uniqueID, rank: rank, size: size, in: context),
      rank: rank, size: size, timeout: timeout)
    do throws(EngineError) {
      try group.settle("opening of an NCCL group", until: Deadline(seconds: timeout))
      watch = try NCCLWatch(group)
    } catch {
      throw group.fail(error)
    }
  }

  deinit { watch.close() }

  /// The host's memory, and that of this rank's GPU.
  public func reaches(_ space: MemorySpace) -> Bool { space == .host || space == .device(device) }

  /// Stops what is under way on this rank, in whatever thread and stream.
  public func abort(_ cause: EngineError) { group.fail(cause) }

  /// Copies the own rows, and gives the others to NCCL.
  public func start(_ exchange: RowExchange) throws(EngineError) -> any PendingExchange {
    try exchange.checkRows(size: size)
    try group.check(step: exchange.step)
    guard exchange.sendRows[rank] == exchange.receiveRows[rank] else {
      throw .mismatch(
        step: exchange.step, sender: rank, sends: "\(exchange.sendRows[rank]) rows",
        receiver: rank, expects: "\(exchange.receiveRows[rank])")
    }
    switch (exchange.send, exchange.receive) {
    case (.host, .host): return try startOnHost(exchange)
    case (.device(let send), .device(let receive)):
      return try startOnDevice(exchange, from: send, to: receive)
    default:
      throw EngineError(
        .unsupported, "\(exchange.step): rows cannot go from a device to the host's memory or back",
        step: exchange.step)
    }
  }

  private func startOnDevice(
    _ exchange: RowExchange, from send: DeviceAddress, to receive: DeviceAddress
  ) throws(EngineError) -> any PendingExchange {
    let (sends, receives) = (exchange.sendRanges, exchange.receiveRanges)
    let stream = exchange.queue.stream ?? self.stream.bits
    try group.attempt(exchange.step) { () throws(EngineError) in
      try context.copy(
        sends[rank].count, from: send + sends[rank].lowerBound,
        to: receive + receives[rank].lowerBound, on: stream)
    }
    let flight = try enqueue(
      NCCLTransfer.parts(of: send, sends, without: rank),
      NCCLTransfer.parts(of: receive, receives, without: rank), on: stream, exchange.step)
    guard exchange.queue == .host else {
      watch.add(flight)
      return EnqueuedExchange()
    }
    return AwaitedExchange(flight, of: self) {}
  }

  private func startOnHost(_ exchange: RowExchange) throws(EngineError) -> any PendingExchange {
    let (sends, receives) = (exchange.sendRanges, exchange.receiveRanges)
    let (sent, received) = unsafe (exchange.sendParts, exchange.receiveParts)
    unsafe received[rank].copyMemory(from: sent[rank])
    let leaving = try staging.take(byteCount: sends.last?.upperBound ?? 0)
    let arriving = try staging.take(byteCount: receives.last?.upperBound ?? 0)
    for (peer, range) in sends.enumerated() where peer != rank {
      unsafe leaving.part(range).copyMemory(from: sent[peer])
    }
    let flight = try enqueue(
      NCCLTransfer.parts(of: leaving.memory.address, sends, without: rank),
      NCCLTransfer.parts(of: arriving.memory.address, receives, without: rank), on: stream.bits,
      exchange.step, staging: [leaving, arriving])
    return AwaitedExchange(flight, of: self) { [rank] in
      for (peer, range) in receives.enumerated() where peer != rank {
        unsafe received[peer].copyMemory(from: UnsafeRawBufferPointer(arriving.part(range)))
      }
    }
  }

  /// Gives transfers to NCCL, and marks the point behind them once they are in the stream.
  private func enqueue(
    _ sends: [NCCLTransfer], _ receives: [NCCLTransfer], on stream: UInt, _ step: String,
    staging: [StagedRows] = []
  ) throws(EngineError) -> NCCLFlight {
    let deadline = Deadline(seconds: group.timeout)
    return try turn.withLock { _ throws(EngineError) in
      if !sends.isEmpty || !receives.isEmpty {
        let isOpen = try group.attempt(step) { () throws(EngineError) in
          try group.communicator.enqueue(sends: sends, receives: receives, on: stream)
        }
        if !isOpen { try group.check(step: step) }
        try group.settle(step, until: deadline)
      }
      return try group.attempt(step) { () throws(EngineError) in
        NCCLFlight(
          step, until: deadline, event: try DeviceEvent(behindWorkOf: stream, in: context),
          staging: staging)
      }
    }
  }

  /// Waits until the exchange has landed.
  fileprivate func wait(for flight: NCCLFlight) throws(EngineError) {
    try group.wait(for: flight.step, until: flight.deadline) { () throws(EngineError) in
      if try flight.hasLanded() { return true }
      // Throws what NCCL has found out since, such as a rank whose process ended.
      _ = try group.communicator.isReady()
      return false
    }
  }

  /// Looks after an exchange that nobody waits for.
  fileprivate func abandon(_ flight: NCCLFlight) { watch.add(flight) }
}

/// Rows that are under way on the stream of the work that reads them.
private struct EnqueuedExchange: PendingExchange {
  func wait() throws(EngineError) {}
}

/// Rows that the host waits for.
private final class AwaitedExchange: PendingExchange {
  private let flight: NCCLFlight
  private let transport: NCCLTransport
  private let unpack: () -> Void
  private var isPending = true

  init(_ flight: NCCLFlight, of transport: NCCLTransport, unpack: @escaping () -> Void) {
    self.flight = flight
    self.transport = transport
    self.unpack = unpack
  }

  deinit {
    if isPending { transport.abandon(flight) }
  }

  func wait() throws(EngineError) {
    isPending = false
    try transport.wait(for: flight)
    unpack()
  }
}
