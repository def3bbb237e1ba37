public import AutoEPCore
public import AutoEPSystem
import AutoEPCUDA
import CKernels
import Glibc

/// One rank of a group whose ranks are GPUs of one host that reach each other's memory, over NVLink.
///
/// Rows are copied by the copy engines into the peers' memory, where flags announce them: no kernel takes part in the
/// copies, and no processor of the GPU but one that waits. A control transport opens the group, and moves the memory of
/// the host.
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
  /// Of exchanges that the host waits for.
  private let ownStream: DeviceStream
  /// Exchanges are enqueued one at a time: the ranks count them in one order.
  private let stream: Locked<PushStream>
  private let process = getpid()

  /// Joins a group. Collective over the ranks of `control`, all of which throw if one fails; `.unsupported` where they do
  /// not reach each other's memory, so that a program can go on with another transport.
  ///
  /// - Parameters:
  ///   - control: Moves the host's memory between the same ranks. The group keeps it.
  ///   - device: The ordinal of this rank's GPU, which no other rank has.
  ///   - timeout: How long the opening and each exchange wait for the other ranks, in seconds.
  ///   - chunkBytes: The bytes that are copied at a time; nil for the default. The same on all ranks, as `slots`.
  ///   - slots: The chunks that are under way between two ranks; nil for the default.
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
    let ranks = try opening.meet(at: place, device, rings)
    memory = try opening.share(rings, on: device, ranks, seconds: timeout)
    self.device = device
    group = PushGroup(over: control, timeout: timeout, host: memory.host)
    ownStream = try opening.onEveryRank { () throws(EngineError) in
      try DeviceStream(in: device.context)
    }
    stream = Locked(PushStream(memory, kernels, device.context, group))
  }

  /// The memory stays until the device has done the last exchange. Nobody waits here: it may take until the deadline.
  deinit {
    // A forked child has none of it.
    guard getpid() == process, let end = stream.withLock({ $0.end }) else { return }
    _ = startDetachedThread { [memory] in
      var pause = PollingPause()
      while (try? end.hasPassed()) == false { pause.take() }
      withExtendedLifetime(memory) {}
    }
  }

  /// The host's memory, and that of this rank's GPU.
  public func reaches(_ space: MemorySpace) -> Bool {
    space == .host || space == .device(device.ordinal)
  }

  /// Stops what is under way on this rank, in whatever thread and stream.
  public func abort(_ cause: EngineError) {
    group.fail(cause)
    group.control.abort(cause)
  }

  /// Enqueues an exchange of the device's memory; gives one of the host's memory to the control transport.
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

  private func startOnHost(_ exchange: RowExchange) throws(EngineError) -> any PendingExchange {
    HostExchange(try group.control.start(exchange))
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

/// Rows that the control transport moves.
private struct HostExchange: PendingExchange {
  private let pending: any PendingExchange

  init(_ pending: any PendingExchange) { self.pending = pending }

  func wait() throws(EngineError) { try pending.wait() }
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

  /// The kernels end at their deadline, so that this does.
  func wait() throws(EngineError) {
    var pause = PollingPause()
    while try !group.attempt(step, { () throws(EngineError) in try end.hasPassed() }) {
      pause.take()
    }
    if let failure = group.health.failure { throw failure }
  }
}

extension WorkQueue {
  /// The handle of the stream; nil for the host.
  fileprivate var stream: UInt? {
    guard case .stream(let handle) = self else { return nil }
    return handle
  }
}
