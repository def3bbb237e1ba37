import AutoEPCore

/// One exchange whose bytes encode their source and target rank, so that each rank knows the bytes that it must
/// receive.
struct Shipment {
  /// The number of rows from a source rank to a target rank.
  let rows: @Sendable (_ source: Int, _ target: Int) -> Int
  let rowBytes: Int
  /// Distinguishes shipments.
  var salt = 0

  /// Exchanges the rows and checks every byte, including those around them.
  func exchange(over transport: any Transport) throws {
    let departing = parts(to: transport)
    var memory = ReceiveMemory(count: arriving(at: transport).count)
    try departing.withUnsafeBytes { send in
      try memory.withBytes { receive in
        try transport.exchange(self.exchange(transport, send, receive))
      }
    }
    try check(memory, at: transport)
  }

  /// The exchange on the rank of `transport`; pointers are null if there are no bytes.
  func exchange(
    _ transport: any Transport, _ send: UnsafeRawBufferPointer,
    _ receive: UnsafeMutableRawBufferPointer
  ) -> RowExchange {
    let ranks = 0..<transport.size
    return RowExchange(
      send: send.isEmpty ? nil : send.baseAddress, sendRows: ranks.map { rows(transport.rank, $0) },
      receive: receive.isEmpty ? nil : receive.baseAddress,
      receiveRows: ranks.map { rows($0, transport.rank) }, rowBytes: rowBytes,
      step: "shipment \(salt)")
  }

  /// The bytes that the rank sends, in rank order.
  func parts(to transport: any Transport) -> [UInt8] {
    (0..<transport.size).flatMap { bytes(from: transport.rank, to: $0) }
  }

  /// The bytes that the rank receives, in rank order.
  func arriving(at transport: any Transport) -> [UInt8] {
    (0..<transport.size).flatMap { bytes(from: $0, to: transport.rank) }
  }

  func check(_ memory: ReceiveMemory, at transport: any Transport) throws {
    try require(memory.content == arriving(at: transport), "received other bytes than were sent")
    try require(memory.surroundingsAreIntact, "wrote outside the rows")
  }

  private func bytes(from source: Int, to target: Int) -> [UInt8] {
    (0..<rows(source, target)).flatMap { row in
      let first = 131 * source + 31 * target + 7 * row + 17 * salt
      let head = (0..<min(rowBytes, 64)).map { UInt8(truncatingIfNeeded: first + $0) }
      let tail = UInt8(truncatingIfNeeded: first)
      return head + Array(repeating: tail, count: rowBytes - head.count)
    }
  }
}

/// Memory with guard bytes on both sides.
struct ReceiveMemory {
  private static let margin = 64
  private static let mark: UInt8 = 0xEE
  private var bytes: [UInt8]

  init(count: Int) {
    bytes = Array(repeating: Self.mark, count: count + 2 * Self.margin)
  }

  var content: [UInt8] { Array(bytes.dropFirst(Self.margin).dropLast(Self.margin)) }

  var surroundingsAreIntact: Bool {
    (bytes.prefix(Self.margin) + bytes.suffix(Self.margin)).allSatisfy { $0 == Self.mark }
  }

  mutating func withBytes<Result>(
    _ body: (UnsafeMutableRawBufferPointer) throws -> Result
  ) rethrows -> Result {
    try bytes.withUnsafeMutableBytes { all in
      let inner = Self.margin..<all.count - Self.margin
      return try body(UnsafeMutableRawBufferPointer(rebasing: all[inner]))
    }
  }
}
