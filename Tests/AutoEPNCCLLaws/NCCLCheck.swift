import AutoEPCUDA
import AutoEPCore
import AutoEPDeviceLaws
import AutoEPGroupIDs
import AutoEPLayerLaws
import AutoEPNCCL
import AutoEPSystem
import AutoEPTransportLaws
import Glibc

/// What one rank checks while the others check it too.
struct NCCLCheck {
  let rank: Int
  let size: Int
  let device: CUDADevice
  let memory: DeviceMemory
  private let nccl: String
  private let ids: GroupIDs

  private typealias Check = @Sendable (NCCLCheck, NCCLTransport) throws -> Void

  /// A check, by its name; each has a group of its own.
  private static let all: [(name: String, check: Check)] = [
    ("transport laws, the host's memory", { check, group in try check.transport(group) }),
    (
      "transport laws, the device's memory",
      { check, group in try check.transport(OnDeviceTransport(group, check.memory, stream: 0)) }
    ),
    ("dispatcher laws, slots", { check, group in try check.dispatcher(group, once: false) }),
    ("dispatcher laws, tokens", { check, group in try check.dispatcher(group, once: true) }),
    ("more than 2^31 bytes to a rank", { check, group in try check.manyBytes(group) }),
    ("a rank that stays out of a waited exchange", { check, group in try check.missing(group) }),
    ("a rank that stays out of a stream's", { check, group in try check.missingOnStream(group) }),
  ]

  init(rank: Int, size: Int, idFile: String, nccl: String, nvrtc: String) throws {
    (self.rank, self.size, self.nccl) = (rank, size, nccl)
    device = try CUDADevice.shared(rank, nvrtcPath: nvrtc)
    memory = try DeviceMemory(ordinal: rank)
    ids = try GroupIDs(Self.all.count + 1, rank: rank, file: idFile, nccl: nccl)
  }

  /// Prints a line per check; returns whether all were good.
  func run(filter: String) throws -> Bool {
    var isGood = true
    // A check of deadlines keeps one rank longer than the others, which must not miss the next group's opening.
    let everyone = try join(Self.all.count, timeout: 300)
    for (index, item) in Self.all.enumerated() where filter.isEmpty || item.name.contains(filter) {
      try everyone.barrier()
      do {
        let isAboutDeadlines = item.name.contains("stays out")
        try item.check(self, join(index, timeout: isAboutDeadlines ? Self.shortTimeout : 300))
        print("rank \(rank) of \(size): \(item.name): well")
      } catch {
        print("rank \(rank) of \(size): \(item.name): \(error)")
        isGood = false
      }
      fflush(nil)
    }
    return isGood
  }

  private static let shortTimeout = 3.0

  private func join(_ group: Int, timeout: Double) throws -> NCCLTransport {
    try NCCLTransport(
      uniqueID: ids[group], rank: rank, size: size, device: rank, timeout: timeout,
      libraryPath: nccl)
  }

  private func transport(_ group: any Transport) throws {
    try checkTransport(sizes: [size]) { _ in [group] }
  }

  /// On the default stream; `once` sends tokens once per rank, where weights allow it.
  private func dispatcher(_ group: NCCLTransport, once: Bool) throws {
    let backend = CUDABackend(device, stream: nil)
    var setting = DispatcherSetting()
    setting.memory = memory
    setting.dtypes = [.f32, .bf16, .f16]
    setting.sizes = [size]
    setting.firstRank = rank
    setting.isBitwise = !once
    setting.report = { outcome in
      let verdict = outcome.failures.isEmpty ? "holds " : "BROKEN"
      print("\(verdict) \(outcome.name)")
      for failure in outcome.failures { print("         \(failure)") }
      fflush(nil)
    }
    let layers = Locked<UInt64>(0)
    try checkDispatcher(on: backend, setting) { configuration, _ in
      let layer = layers.withLock { last in
        last += 1
        return last
      }
      if once && configuration.applyWeights == .after {
        return [
          DeduplicatedDispatcher(
            backend: backend, transport: group, configuration: configuration, layer: layer)
        ]
      }
      return [
        AllToAllDispatcher(
          backend: backend, transport: group, configuration: configuration, layer: layer)
      ]
    }
  }

  /// Rank 0 sends its rows to the last one, whose own are few.
  private func manyBytes(_ group: NCCLTransport) throws {
    let (rowBytes, rows) = (4096, (1 << 31) / 4096 + 1)
    let last = size - 1
    func count(_ source: Int, _ target: Int) -> Int { source == 0 && target == last ? rows : 0 }
    var bytes = [UInt8](repeating: 3, count: rank == 0 ? rows * rowBytes : 0)
    for place in marks(rows * rowBytes) where rank == 0 { bytes[place] = UInt8(place % 251) }
    let send = try memory.allocate(bytes)
    let receive = try memory.allocate(
      [UInt8](repeating: 0, count: rank == last ? rows * rowBytes : 0))
    try group.exchange(
      RowExchange(
        send: send, sendRows: (0..<size).map { count(rank, $0) }, receive: receive,
        receiveRows: (0..<size).map { count($0, rank) }, rowBytes: rowBytes, step: "many bytes",
        queue: .stream(0)))
    for place in marks(rows * rowBytes) where rank == last {
      let byte = try memory.bytes(at: receive.advanced(by: place), count: 1)
      try expect(byte == [UInt8(place % 251)], "byte \(place) is \(byte)")
    }
    try group.barrier()
    for storage in [send, receive] { memory.free(storage) }
  }

  private func marks(_ byteCount: Int) -> [Int] {
    [0, 1 << 30, (1 << 31) - 1, 1 << 31, byteCount - 1]
  }

  /// The last rank stays out; the others find out at the deadline, and it does when it comes.
  private func missing(_ group: NCCLTransport) throws {
    try deserted(group) {
      if size == 2 { return try checkMissingRank(1, at: group, seconds: Self.shortTimeout) }
      let error = try failure(of: "barrier") { () throws(EngineError) in try group.barrier() }
      try expect(error.kind == .timeout, "\(error.kind), \(error)")
      try checkRefusal(at: group)
    }
  }

  /// The stream goes on after the deadline, and the next call says why.
  private func missingOnStream(_ group: NCCLTransport) throws {
    // NCCL has connected the ranks, so that the exchange gets as far as the device.
    try group.barrier()
    try deserted(group) {
      let rows = Array(repeating: 1 << 20, count: size)
      let bytes = [UInt8](repeating: 1, count: size << 20)
      let (send, receive) = (try memory.allocate(bytes), try memory.allocate(bytes))
      let begin = ContinuousClock.now
      try group.exchange(
        RowExchange(
          send: send, sendRows: rows, receive: receive, receiveRows: rows, rowBytes: 1,
          step: "dispatch of tokens", queue: .stream(0)))
      // Waits for the stream.
      _ = try memory.bytes(at: receive, count: 1)
      let took = ContinuousClock.now - begin
      try expect(
        took < .seconds(Self.shortTimeout + 1), "the stream went on after \(took) only")
      let failure = group.health.failure
      try expect(
        failure?.kind == .timeout && failure?.step == "dispatch of tokens",
        "the health tells of \(String(describing: failure))")
      try checkRefusal(at: group)
    }
  }

  private func deserted(_ group: NCCLTransport, _ body: () throws -> Void) throws {
    let isLast = rank == size - 1
    if !isLast { try body() } else { sleep(UInt32(Self.shortTimeout) + 3) }
    guard isLast, size > 1 else { return }
    // Too late: the others have given the group up.
    let error = try failure(of: "late barrier") { () throws(EngineError) in try group.barrier() }
    try expect(
      error.kind == .timeout || error.kind == .communication, "\(error.kind), \(error)")
  }
}

/// Throws unless `condition` holds.
private func expect(_ condition: Bool, _ what: @autoclosure () -> String) throws {
  if !condition { throw AutoEPTransportLaws.BrokenLaw(what()) }
}
