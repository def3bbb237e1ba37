import AutoEPCore
import AutoEPPush
import AutoEPSystem
import AutoEPTransportLaws
import Glibc

/// What goes wrong on a stream.
extension PushCheck {
  /// The last rank stays out. The others' streams go on after the deadline, and the next call says why; it finds out when
  /// it comes.
  func missingOnStream(_ group: PushTransport) throws {
    guard size > 1 else { return }
    let missing = size - 1
    // Also the first exchange of a group costs what the driver puts off until then.
    try send(group, "warm-up")
    if rank == missing {
      sleep(UInt32(Self.shortTimeout) + 3)
      try send(group, "dispatch of tokens")
      try expect(group.health.failure?.kind == .communication, "a late rank has not noticed it")
      return
    }
    let begin = ContinuousClock.now
    try send(group, "dispatch of tokens")
    let took = ContinuousClock.now - begin
    try expect(took < .seconds(Self.shortTimeout + 1), "the stream went on after \(took) only")
    let failure = group.health.failure
    try expect(
      failure?.kind == .timeout && failure?.step == "dispatch of tokens"
        && failure?.ranks == [missing],
      "the health tells of \(String(describing: failure)), ranks \(failure?.ranks ?? [])")
    try checkRefusal(at: group)
  }

  /// Rank 0 expects more of the last one than that sends. All others learn of it as well.
  func mismatch(_ group: PushTransport) throws {
    guard size > 1 else { return }
    let last = size - 1
    var (sends, receives) = ([Int](repeating: 64, count: size), [Int](repeating: 64, count: size))
    if rank == 0 { receives[last] = 100 }
    if rank == last { sends[0] = 99 }
    try send(group, "dispatch of tokens", sends, receives)
    if group.health.failure == nil { try send(group, "combine of results") }
    let text = "dispatch of tokens: rank \(last) sends 99 bytes to rank 0, which expects 100"
    let failure = group.health.failure
    try expect(
      failure?.message.contains(text) == true, "the health tells of \(String(describing: failure))")
  }

  /// The last rank comes only after rank 0 has given up, which ends its wait on the device at once.
  func abort(_ group: PushTransport) throws {
    guard size > 1 else { return }
    if rank == size - 1 {
      sleep(3)
      return
    }
    let begin = ContinuousClock.now
    _ = startDetachedThread {
      usleep(500_000)
      group.abort(EngineError(.internal, "the trainer gave up"))
    }
    try send(group, "dispatch of tokens")
    let took = ContinuousClock.now - begin
    try expect(took > .seconds(0.4) && took < .seconds(2), "the stream went on after \(took)")
    try expect(
      group.health.failure?.message == "the trainer gave up",
      "the health tells of \(String(describing: group.health.failure))")
  }

  /// Exchanges rows on the default stream, and waits for it.
  private func send(
    _ group: PushTransport, _ step: String, _ sends: [Int]? = nil, _ receives: [Int]? = nil
  ) throws {
    let rows = [Int](repeating: 1 << 20, count: size)
    let (sends, receives) = (sends ?? rows, receives ?? rows)
    let send = try memory.allocate([UInt8](repeating: 1, count: sends.reduce(0, +)))
    let receive = try memory.allocate([UInt8](repeating: 1, count: receives.reduce(0, +)))
    try group.exchange(
      RowExchange(
        send: send, sendRows: sends, receive: receive, receiveRows: receives, rowBytes: 1,
        step: step, queue: .stream(0)))
    _ = try memory.bytes(at: receive, count: 1)
    for storage in [send, receive] { memory.free(storage) }
  }
}
