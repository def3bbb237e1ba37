import AutoEPCore
import AutoEPSystem
import CAutoEP

/// Runs an export's body and turns what it throws into a status and a text for the caller.
func guarded(
  _ error: UnsafeMutablePointer<autoep_error>?, _ body: () throws(EngineError) -> Void
) -> autoep_status {
  do throws(EngineError) {
    try body()
    return autoep_status(AUTOEP_OK)
  } catch let failure {
    if let error = unsafe error { unsafe write(failure, to: error) }
    return failure.kind.rawValue
  }
}

/// Writes status and text; a text that does not fit is cut between two characters.
private func write(_ failure: EngineError, to error: UnsafeMutablePointer<autoep_error>) {
  unsafe error.pointee.status = failure.kind.rawValue
  unsafe withUnsafeMutableBytes(of: &error.pointee.message) { target in
    unsafe copyText(failure.message, to: target)
  }
}

/// Copies text and its ending NUL into `target`, which is not empty.
private func copyText(_ text: String, to target: UnsafeMutableRawBufferPointer) {
  var end = 0
  for character in text {
    let bytes = Array(character.utf8)
    guard end + bytes.count < target.count else { break }
    unsafe target[end..<end + bytes.count].copyBytes(from: bytes)
    end += bytes.count
  }
  unsafe target[end] = 0
}
