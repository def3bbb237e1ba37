// The header documents the functions.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation
import AutoEPCore
import AutoEPSystem
import CAutoEP

@_cdecl("autoep_context_statistics") @implementation
public func autoep_context_statistics(
  _ context: autoep_context, _ statistics: UnsafeMutablePointer<autoep_statistics>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let check = TensorChecker()
    var result = try unsafe check.structure(statistics, "statistics")
    let snapshot = try contexts.find(context).statistics.snapshot
    result.forward_calls = Int64(snapshot.forwardCalls)
    result.backward_calls = Int64(snapshot.backwardCalls)
    result.rows_sent = Int64(snapshot.rowsSent)
    result.rows_sent_remote = Int64(snapshot.rowsSentRemote)
    result.rows_received = Int64(snapshot.rowsReceived)
    result.bytes_sent_remote = Int64(snapshot.bytesSentRemote)
    unsafe statistics.pointee = result
  }
}

@_cdecl("autoep_context_reset_statistics") @implementation
public func autoep_context_reset_statistics(
  _ context: autoep_context, _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in try contexts.find(context).statistics.reset() }
}
