public import AutoEPCore
public import AutoEPSystem
import AutoEPCUDA
import CKernels
import Glibc

/// One rank of a group whose ranks have a GPU each, on one host, and reach each other's memory over NVLink.
///
/// Copy engines copy rows into the peers' memory, where flags announce them. No kernel copies; the only kernels are of
/// one warp, which sets flags and waits for those of the peers. A control transport opens the group, and moves host
/// memory.
///
/// Waits on the device end at the deadline. This rank then reports the ranks that were missing, tells the others, and
/// refuses every later call.
public final class PushTransport: Transport {
  /// This rank, in `0..<size`.
  public var rank: Int { group.rank }
  /// The number of ranks.
  public var size: Int { group.size }
  /// The health of the group, as far as this rank knows.
  public var health: GroupHealth { group.health }

  private let group: PushGroup
  private let device: CUDADevice
  private let memory: PushMemory
  /// The stream of the exchanges that the host waits for.
  private let ownStream: DeviceStream
  /// Locked, because exchanges are enqueued one at a time: all ranks count them in the same order.
  private let stream: Locked<PushStream>
  private let process = getpid()

  /// Joins a group. Collective over the ranks of `control`: all throw if one fails. The error is `.unsupported` if they
  /// do not reach each other's memory, so that a program can go on with another transport.
  ///
  /// - Parameters:
  ///   - control: Moves host memory between the same ranks. The group keeps it alive.
  ///   - device: The ordinal of this rank's GPU, which no other rank has.
  ///   - timeout: How long the opening and each exchange wait for the other ranks, in seconds.
  ///   - chunkBytes: The bytes that are copied at a time, the same on all ranks; nil for the default.
  ///   - slots: The chunks that can be under way from one rank to another, the same on all ranks; nil for the default.
  ///   - nvrtcPath: Where NVRTC is, if the process has not loaded it.
  public convenience init(
    over control: any Transport, device: Int, timeout: Double, chunkBytes: Int? = nil,
    slots: Int? = nil, nvrtcPath: String?
  ) throws(EngineError) {
    try self.init(over: control, timeout: timeout, chunkBytes: chunkBytes, slots: slots) {
      () throws(EngineError) in
      let device = try CUDADevice.shared(device, nvrtcPath: nvrtcPath)
      return (device, try PushPlace(device))
    }
  }

  /// - Parameter find: Finds this rank's GPU and its place.
  init(
    over control: any Transport, timeout: Double, chunkBytes: Int? = nil, slots: Int? = nil,
    find: () throws(EngineError) -> (CUDADevice, PushPlace)
  ) throws(EngineError) {
    let opening = PushOpening(control: control)
    let (device, place, kernels, rings) = try opening.onEveryRank { () throws(EngineError) in
      try checkTimeout(timeout)
      let rings = try PushRings(
        ranks: control.size, slots: slots ?? PushRings.defaultSlots,
        chunkBytes: chunkBytes ?? PushRings.defaultChunkBytes)
      let (device, place) = try find()
      return (device, place, try PushKernels(device), rings)
    }
    let secrets = try opening.meet(at: place, device, rings)
    memory = try opening.share(rings, on: device, secrets, seconds: timeout)
    self.device = device
    group = PushGroup(over: control, timeout: timeout, host: memory.host)
    ownStream = try opening.onEveryRank { () throws(EngineError) in
      try DeviceStream(in: device.context)
    }
    stream = Locked(PushStream(memory, kernels, device.context, group))
  }

  /// A thread of its own keeps the memory until the device has finished the last exchange, which may take until the
  /// deadline.
  deinit {
    // A forked child does not own the device's memory.
    guard getpid() == process, let end = stream.withLock({ $0.end }) else { return }
    _ = startDetachedThread { [memory] in
      var pause = PollingPause()
      while (try? end.hasPassed()) == false { pause.take() }
      withExtendedLifetime(memory) {}
    }
  }

  /// Host memory, and that of this rank's GPU.
  public func reaches(_ space: MemorySpace) -> Bool {
    space == .host || space == .device(device.ordinal)
  }

  /// Ends the exchanges in progress on this rank, in any thread and stream.
  public func abort(_ cause: EngineError) {
    group.fail(cause)
    group.control.abort(cause)
  }

  /// Enqueues an exchange of device memory; the control transport runs one of host memory.
  public func start(_ exchange: RowExchange) throws(EngineError) -> any PendingExchange {
    try exchange.checkRows(size: size)
    try group.check(step: exchange.step)
    guard exchange.sendRows[rank] == exchange.receiveRows[rank] else {
      throw .mismatch(
        step: exchange.step, sender: rank, sends: "\(exchange.sendRows[rank]) rows",
        receiver: rank, expects: "\(exchange.receiveRows[rank])")
    }
    switch (exchange.send, exchange.receive) {
    case (.host, .host): return try group.control.start(exchange)
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
    let (step, context) = (exchange.step, device.context)
    let bits = exchange.queue.stream ?? ownStream.bits
    return try group.attempt(step) { () throws(EngineError) -> any PendingExchange in
      try stream.withLock { (stream) throws(EngineError) -> any PendingExchange in
        try stream.enqueue(exchange, from: send, to: receive, on: bits)
        guard exchange.queue == .host else { return EnqueuedExchange() }
        return AwaitedExchange(
          step, group, end: try DeviceEvent(behindWorkOf: bits, in: context))
      }
    }
  }
}

/// Rows that are under way on the stream of the work that reads them.
private struct EnqueuedExchange: PendingExchange {
  func wait() throws(EngineError) {}
}

/// Rows that the host waits for.
private struct AwaitedExchange: PendingExchange {
  private let step: String
  private let group: PushGroup
  private let end: DeviceEvent

  init(_ step: String, _ group: PushGroup, end: DeviceEvent) {
    (self.step, self.group, self.end) = (step, group, end)
  }

  /// Returns by the deadline, because the kernels do.
  func wait() throws(EngineError) {
    var pause = PollingPause()
    while try !group.attempt(step, { () throws(EngineError) in try end.hasPassed() }) {
      pause.take()
    }
    if let failure = group.health.failure { throw failure }
  }
}
