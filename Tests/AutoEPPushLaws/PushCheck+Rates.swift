import AutoEPCore
import AutoEPPush
import Glibc

/// Not a law: how fast rows travel, for comparison with the rates of the links.
extension PushCheck {
  /// Prints the bytes that a rank sends to its peers per second, with all ranks sending at once: the median of 20
  /// exchanges, for each of which the host waits, and the mean of 20 that are enqueued one behind the other.
  func rates(_ group: PushTransport) throws {
    guard size > 1 else { return }
    for megabytes in [1, 4, 33, 128, 512] {
      let rows = (megabytes * 1_000_000 / 4096 + size - 2) / (size - 1)
      let counts = (0..<size).map { $0 == rank ? 0 : rows }
      let byteCount = rows * 4096 * (size - 1)
      let send = try memory.allocate([UInt8](repeating: UInt8(rank), count: byteCount))
      let receive = try memory.allocate([UInt8](repeating: 0xFF, count: byteCount))
      let exchange = RowExchange(
        send: send, sendRows: counts, receive: receive, receiveRows: counts, rowBytes: 4096,
        step: "rates", queue: .stream(0))
      func seconds(_ exchanges: Int) throws -> Double {
        try group.barrier()
        let took = try ContinuousClock().measure {
          for _ in 0..<exchanges { try group.exchange(exchange) }
          // Waits for the stream.
          _ = try memory.bytes(at: receive, count: 1)
        }
        return took / .seconds(1)
      }
      _ = try seconds(2)
      let median = try (0..<20).map { _ in try seconds(1) }.sorted()[10]
      let mean = try seconds(20) / 20
      if rank == 0 {
        print(
          "\(megabytes) MB: \(rate(byteCount, median)) GB/s, \(rate(byteCount, mean)) in a row"
            + " (\(Int(median * 1e6)) and \(Int(mean * 1e6)) us)")
      }
      let last = try memory.bytes(at: receive.advanced(by: byteCount - 1), count: 1)
      try expect(last == [UInt8(rank == size - 1 ? size - 2 : size - 1)], "received \(last)")
      for storage in [send, receive] { memory.free(storage) }
    }
  }

  private func rate(_ byteCount: Int, _ seconds: Double) -> Double {
    (Double(byteCount) / seconds / 1e8).rounded() / 10
  }
}
