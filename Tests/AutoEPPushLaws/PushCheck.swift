import AutoEPCUDA
import AutoEPCore
import AutoEPDeviceLaws
import AutoEPGroupIDs
import AutoEPLayerLaws
import AutoEPNCCL
import AutoEPPush
import AutoEPSystem
import AutoEPTransportLaws
import Glibc

/// What one rank checks while the others check it too.
struct PushCheck {
  let rank: Int
  let size: Int
  let device: CUDADevice
  let memory: DeviceMemory
  private let nccl: String
  private let nvrtc: String
  private let ids: GroupIDs

  /// A check, by its name; each has a group of its own.
  private struct Item {
    let name: String
    var timeout = 300.0
    /// Nil for the defaults.
    var chunkBytes: Int?
    var slots: Int?
    let check: @Sendable (PushCheck, PushTransport) throws -> Void
  }

  static let shortTimeout = 3.0

  private static let all = [
    Item(name: "transport laws, the host's memory") { check, group in try check.transport(group) },
    Item(name: "transport laws, the device's memory") { check, group in
      try check.transport(OnDeviceTransport(group, check.memory, stream: 0))
    },
    Item(name: "transport laws, small chunks", chunkBytes: 64 << 10, slots: 2) { check, group in
      try check.transport(OnDeviceTransport(group, check.memory, stream: 0))
    },
    Item(name: "transport laws, one slot", chunkBytes: 64 << 10, slots: 1) { check, group in
      try check.transport(OnDeviceTransport(group, check.memory, stream: 0))
    },
    Item(name: "dispatcher laws") { check, group in try check.dispatcher(group) },
    Item(name: "more than 2^31 bytes to a rank") { check, group in try check.manyBytes(group) },
    Item(name: "rates") { check, group in try check.rates(group) },
    Item(name: "a mismatch", timeout: shortTimeout) { check, group in try check.mismatch(group) },
    Item(name: "an abort while the device waits", timeout: 60) { check, group in
      try check.abort(group)
    },
    Item(name: "a rank that stays out of a stream's", timeout: shortTimeout) { check, group in
      try check.missingOnStream(group)
    },
  ]

  init(rank: Int, size: Int, idFile: String, nccl: String, nvrtc: String) throws {
    (self.rank, self.size, self.nccl, self.nvrtc) = (rank, size, nccl, nvrtc)
    device = try CUDADevice.shared(rank, nvrtcPath: nvrtc)
    memory = try DeviceMemory(ordinal: rank)
    ids = try GroupIDs(Self.all.count + 1, rank: rank, file: idFile, nccl: nccl)
  }

  /// Prints a line per check; returns whether all were good.
  func run(filter: String) throws -> Bool {
    var isGood = true
    // A check of deadlines keeps one rank longer than the others, which must not miss the next group's opening.
    let everyone = try control(Self.all.count)
    for (index, item) in Self.all.enumerated() where filter.isEmpty || item.name.contains(filter) {
      try everyone.barrier()
      do {
        try item.check(
          self,
          PushTransport(
            over: control(index), device: rank, timeout: item.timeout, chunkBytes: item.chunkBytes,
            slots: item.slots, nvrtcPath: nvrtc))
        print("rank \(rank) of \(size): \(item.name): well")
      } catch {
        print("rank \(rank) of \(size): \(item.name): \(error)")
        isGood = false
      }
      fflush(nil)
    }
    return isGood
  }

  private func control(_ group: Int) throws -> NCCLTransport {
    try NCCLTransport(
      uniqueID: ids[group], rank: rank, size: size, device: rank, timeout: 300, libraryPath: nccl)
  }

  private func transport(_ group: any Transport) throws {
    try checkTransport(sizes: [size]) { _ in [group] }
  }

  /// On the default stream.
  private func dispatcher(_ group: PushTransport) throws {
    let backend = CUDABackend(device, stream: nil)
    var setting = DispatcherSetting()
    setting.memory = memory
    setting.dtypes = [.f32, .bf16, .f16]
    setting.sizes = [size]
    setting.firstRank = rank
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
      return [
        AllToAllDispatcher(
          backend: backend, transport: group, configuration: configuration, layer: layer)
      ]
    }
  }

  /// Rank 0 sends its rows to the last one, whose own are few.
  private func manyBytes(_ group: PushTransport) throws {
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
}

/// Throws unless `condition` holds.
func expect(_ condition: Bool, _ what: @autoclosure () -> String) throws {
  if !condition { throw AutoEPTransportLaws.BrokenLaw(what()) }
}
