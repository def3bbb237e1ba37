import CAutoEP
import Foundation

/// A host whose transport does what a test writes down, and counts what it is asked for.
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
  private var isInCall = false

  /// Rank 0 of `size`; the host outlives the table.
  func table(size: Int32 = 3) -> autoep_transport {
    var table = autoep_transport()
    table.struct_size = MemoryLayout<autoep_transport>.size
    table.state = Unmanaged.passUnretained(self).toOpaque()
    table.rank = 0
    table.size = size
    table.start = { state, _, _, _, _, _, _, message in
      guard let host = ScriptedHost.from(state) else { return Int32(AUTOEP_INTERNAL) }
      host.starts += 1
      host.answer(message)
      return Int32(host.startCode)
    }
    table.wait = { state, _, seconds, missing, message in
      guard let host = ScriptedHost.from(state) else { return Int32(AUTOEP_INTERNAL) }
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

  /// Writes the message, and notices another call that does the same.
  private func answer(_ target: UnsafeMutablePointer<CChar>?) {
    sawOverlap = sawOverlap || isInCall
    isInCall = true
    for (index, byte) in message.utf8.enumerated() { target?[index] = CChar(bitPattern: byte) }
    sched_yield()
    isInCall = false
  }
}
