import CAutoEP
import Foundation

/// A host whose transport follows a test's script and counts its calls.
final class ScriptedHost {
  var startCode = AUTOEP_OK
  var waitCode = AUTOEP_OK
  var message = ""
  var missing: [Int] = []
  private(set) var starts = 0
  private(set) var waits = 0
  private(set) var deadlines: [Double] = []
  private(set) var releases = 0
  private(set) var sawOverlap = false
  private(set) var exchange: Exchange?
  private var isInCall = false
  private var size = 0

  /// The last exchange that was started, as passed to the host.
  struct Exchange {
    let structSize: Int
    let send: UnsafeRawPointer?
    let sendRows: [Int64]
    let receive: UnsafeMutableRawPointer?
    let receiveRows: [Int64]
    let rowBytes: Int64

    init(_ exchange: autoep_exchange, size: Int) {
      structSize = exchange.struct_size
      send = exchange.send
      sendRows = Array(UnsafeBufferPointer(start: exchange.send_rows, count: size))
      receive = exchange.receive
      receiveRows = Array(UnsafeBufferPointer(start: exchange.receive_rows, count: size))
      rowBytes = exchange.row_bytes
    }
  }

  /// The table of rank 0 of `size`; the host must outlive it.
  func table(size: Int32 = 3) -> autoep_transport {
    self.size = Int(size)
    var table = autoep_transport()
    table.struct_size = MemoryLayout<autoep_transport>.size
    table.state = Unmanaged.passUnretained(self).toOpaque()
    table.rank = 0
    table.size = size
    table.start = { state, exchange, _, message in
      guard let host = ScriptedHost.from(state) else { return Int32(AUTOEP_ERROR_INTERNAL) }
      host.starts += 1
      host.exchange = exchange.map { Exchange($0.pointee, size: host.size) }
      host.answer(message)
      return Int32(host.startCode)
    }
    table.wait = { state, _, seconds, missing, message in
      guard let host = ScriptedHost.from(state) else { return Int32(AUTOEP_ERROR_INTERNAL) }
      host.waits += 1
      host.deadlines.append(seconds)
      for rank in host.missing { missing?[rank] = 1 }
      host.answer(message)
      return Int32(host.waitCode)
    }
    table.release = { state in ScriptedHost.from(state)?.releases += 1 }
    return table
  }

  private static func from(_ state: UnsafeMutableRawPointer?) -> ScriptedHost? {
    state.map { Unmanaged<ScriptedHost>.fromOpaque($0).takeUnretainedValue() }
  }

  /// Writes the message, and detects concurrent calls.
  private func answer(_ target: UnsafeMutablePointer<CChar>?) {
    sawOverlap = sawOverlap || isInCall
    isInCall = true
    for (index, byte) in message.utf8.enumerated() { target?[index] = CChar(bitPattern: byte) }
    sched_yield()
    isInCall = false
  }
}
