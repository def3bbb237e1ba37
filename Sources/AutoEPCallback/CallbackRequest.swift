import AutoEPCore
import AutoEPSystem
import CAutoEP

/// One exchange of the table: keeps the arguments of `start` alive until the host has released the request.
@safe
final class CallbackRequest {
  let exchange: RowExchange
  /// Whether `wait` still has to release the host's request.
  private(set) var isPending = false

  private let table: TransportTable
  private let sendRows: TransportBuffer
  private let receiveRows: TransportBuffer
  private var request: UnsafeMutableRawPointer?

  init(_ exchange: RowExchange, table: TransportTable) throws(EngineError) {
    self.exchange = exchange
    self.table = table
    sendRows = try wireCounts(exchange.sendRows, step: exchange.step)
    receiveRows = try wireCounts(exchange.receiveRows, step: exchange.step)
  }

  func start() throws(EngineError) {
    var wire = unsafe autoep_exchange(
      struct_size: MemoryLayout<autoep_exchange>.size, send: exchange.sendPointer,
      send_rows: rows(sendRows), receive: exchange.receivePointer, receive_rows: rows(receiveRows),
      row_bytes: Int64(exchange.rowBytes))
    let (code, text) = unsafe withMessage { message in
      unsafe table.start(table.state, &wire, &request, message)
    }
    guard code == 0 else { throw failed("start", code: code, text: text) }
    isPending = true
  }

  func wait(seconds: Double) throws(EngineError) {
    isPending = false
    var missing = [Int32](repeating: 0, count: table.size)
    let (code, text) = unsafe withMessage { message in
      unsafe table.wait(table.state, request, seconds, &missing, message)
    }
    if code == AUTOEP_ERROR_TIMEOUT {
      throw .missingRanks(
        missing.indices.filter { missing[$0] != 0 }, step: exchange.step, rank: table.rank,
        size: table.size, seconds: seconds)
    }
    guard code == 0 else { throw failed("wait", code: code, text: text) }
  }

  private func rows(_ buffer: TransportBuffer) -> UnsafePointer<Int64>? {
    unsafe UnsafePointer(buffer.bytes.assumingMemoryBound(to: Int64.self).baseAddress)
  }

  private func failed(_ function: String, code: Int32, text: String) -> EngineError {
    let reason = text.isEmpty ? "no reason given" : text
    return EngineError(
      .communication,
      "\(exchange.step): rank \(table.rank): the transport's \(function) returned \(code): \(reason)",
      step: exchange.step)
  }
}

/// Copies row counts to the 64-bit integers of the table.
private func wireCounts(_ rows: [Int], step: String) throws(EngineError) -> TransportBuffer {
  let buffer = try TransportBuffer(
    byteCount: rows.count * MemoryLayout<Int64>.stride, for: step)
  let counts = unsafe buffer.bytes.bindMemory(to: Int64.self)
  for (rank, count) in rows.enumerated() { unsafe counts[rank] = Int64(count) }
  return buffer
}
