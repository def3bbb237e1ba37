import AutoEPCore
import AutoEPSystem
import CAutoEP

/// Runs an export's body and turns a thrown error into a status and a message for the caller.
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

/// Runs the body of an export that computes on a context, with its backend and an argument checker.
func onContext(
  _ context: autoep_context, _ error: UnsafeMutablePointer<autoep_error>?,
  _ function: StaticString = #function,
  _ body: (any ComputeBackend, inout TensorChecker) throws(EngineError) -> Void
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let context = try contexts.find(context)
    let backend = try context.backend()
    var check = TensorChecker(on: context, function)
    try body(backend, &check)
  }
}

/// Writes an error to the caller's struct, and truncates long messages between two characters. Leaves a struct whose
/// size is not set unchanged.
func write(_ failure: EngineError, to error: UnsafeMutablePointer<autoep_error>) {
  guard unsafe error.pointee.struct_size >= MemoryLayout<autoep_error>.size else { return }
  unsafe error.pointee.status = failure.kind.rawValue
  unsafe error.pointee.num_ranks = Int32(truncatingIfNeeded: failure.ranks.count)
  unsafe withUnsafeMutableBytes(of: &error.pointee.ranks) { target in
    let ranks = unsafe target.bindMemory(to: Int32.self)
    for (index, rank) in failure.ranks.prefix(ranks.count).enumerated() {
      unsafe ranks[index] = Int32(truncatingIfNeeded: rank)
    }
  }
  unsafe withUnsafeMutableBytes(of: &error.pointee.step) { target in
    unsafe copyText(failure.step ?? "", to: target)
  }
  unsafe withUnsafeMutableBytes(of: &error.pointee.message) { target in
    unsafe copyText(failure.message, to: target)
  }
}

/// Copies text and its terminating NUL into `target`, which is not empty.
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
