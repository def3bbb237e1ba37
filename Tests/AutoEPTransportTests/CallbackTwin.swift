import AutoEPCallback
import AutoEPCore
import AutoEPSystem
import CAutoEP

/// Wraps a rank of a group in this process in a C transport table.
func callbackTwin(of transport: InProcessTransport, timeout: Double) throws -> CallbackTransport {
  var table = autoep_transport()
  table.struct_size = MemoryLayout<autoep_transport>.size
  table.state = Unmanaged.passRetained(transport).toOpaque()
  table.rank = Int32(transport.rank)
  table.size = Int32(transport.size)
  table.start = twinStart
  table.wait = twinWait
  table.release = { state in
    if let state { Unmanaged<InProcessTransport>.fromOpaque(state).release() }
  }
  return try CallbackTransport(table, timeout: timeout)
}

private final class TwinRequest {
  let pending: any PendingExchange
  init(_ pending: any PendingExchange) { self.pending = pending }
}

private let twinStart:
  @convention(c) (
    UnsafeMutableRawPointer?, UnsafePointer<autoep_exchange>?,
    UnsafeMutablePointer<UnsafeMutableRawPointer?>?, UnsafeMutablePointer<CChar>?
  ) -> Int32 = { state, exchange, request, message in
    guard let state, let exchange = exchange?.pointee, let request else {
      return Int32(AUTOEP_ERROR_INTERNAL)
    }
    let transport = Unmanaged<InProcessTransport>.fromOpaque(state).takeUnretainedValue()
    func rows(_ counts: UnsafePointer<Int64>?) -> [Int] {
      UnsafeBufferPointer(start: counts, count: transport.size).map { Int($0) }
    }
    do throws(EngineError) {
      let pending = try transport.start(
        RowExchange(
          send: exchange.send, sendRows: rows(exchange.send_rows), receive: exchange.receive,
          receiveRows: rows(exchange.receive_rows), rowBytes: Int(exchange.row_bytes),
          step: "twin"))
      request.pointee = Unmanaged.passRetained(TwinRequest(pending)).toOpaque()
      return Int32(AUTOEP_OK)
    } catch {
      return report(error, to: message)
    }
  }

private let twinWait:
  @convention(c) (
    UnsafeMutableRawPointer?, UnsafeMutableRawPointer?, Double, UnsafeMutablePointer<Int32>?,
    UnsafeMutablePointer<CChar>?
  ) -> Int32 = { _, request, _, _, message in
    guard let request else { return Int32(AUTOEP_ERROR_INTERNAL) }
    do throws(EngineError) {
      try Unmanaged<TwinRequest>.fromOpaque(request).takeRetainedValue().pending.wait()
      return Int32(AUTOEP_OK)
    } catch {
      return report(error, to: message)
    }
  }

private func report(_ error: EngineError, to message: UnsafeMutablePointer<CChar>?) -> Int32 {
  let capacity = Int(AUTOEP_ERROR_MESSAGE_SIZE) - 1
  for (index, byte) in error.message.utf8.prefix(capacity).enumerated() {
    message?[index] = CChar(bitPattern: byte)
  }
  return error.kind.rawValue
}
