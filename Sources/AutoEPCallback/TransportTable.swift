import AutoEPCore
import AutoEPSystem
import CAutoEP

/// A checked `autoep_transport`.
@safe
struct TransportTable: @unchecked Sendable {
  typealias Start =
    @convention(c) (
      UnsafeMutableRawPointer?, UnsafePointer<autoep_exchange>?,
      UnsafeMutablePointer<UnsafeMutableRawPointer?>?, UnsafeMutablePointer<CChar>?
    ) -> Int32
  typealias Wait =
    @convention(c) (
      UnsafeMutableRawPointer?, UnsafeMutableRawPointer?, Double, UnsafeMutablePointer<Int32>?,
      UnsafeMutablePointer<CChar>?
    ) -> Int32
  typealias Release = @convention(c) (UnsafeMutableRawPointer?) -> Void

  let rank: Int
  let size: Int
  let state: UnsafeMutableRawPointer?
  let start: Start
  let wait: Wait
  private let release: Release?

  init(_ table: autoep_transport) throws(EngineError) {
    let expected = unsafe MemoryLayout<autoep_transport>.size
    guard unsafe table.struct_size >= expected else {
      throw invalid("struct_size is \(unsafe table.struct_size), expected \(expected)")
    }
    guard unsafe table.size >= 1, unsafe (0..<table.size).contains(table.rank) else {
      throw invalid(
        "rank is \(unsafe table.rank) of \(unsafe table.size), expected 0 <= rank < size")
    }
    guard let start = unsafe table.start else { throw invalid("start is NULL") }
    guard let wait = unsafe table.wait else { throw invalid("wait is NULL") }
    unsafe self.start = start
    unsafe self.wait = wait
    unsafe release = table.release
    unsafe state = table.state
    rank = unsafe Int(table.rank)
    size = unsafe Int(table.size)
  }

  /// Releases the host's state.
  func releaseState() { unsafe release?(state) }
}

private func invalid(_ what: String) -> EngineError {
  EngineError(.invalidArgument, "autoep_transport: \(what)")
}

/// Runs a C call that may write a message, and returns its code and the message.
package func withMessage(
  _ call: (UnsafeMutablePointer<CChar>?) -> Int32
) -> (code: Int32, text: String) {
  var message = [CChar](repeating: 0, count: Int(AUTOEP_ERROR_MESSAGE_SIZE))
  let code = unsafe message.withUnsafeMutableBufferPointer { unsafe call($0.baseAddress) }
  let text = message.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
  return (code, String(decoding: text, as: UTF8.self))
}
