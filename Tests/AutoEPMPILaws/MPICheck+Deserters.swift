import AutoEPCore
import AutoEPMPI
import AutoEPSystem
import AutoEPTransportLaws
import Foundation

/// Checks after which MPI cannot be ended: rank 0 says what it saw and exits, and mpirun then ends
/// the rank that deserted it.
extension MPICheck {
  /// Rank 1 begins an exchange and turns away: rows may be on their way to it. Rank 0 names it and
  /// gives MPI up, so that its memory is its own again.
  func rowsInFlight() throws {
    let transport = try open(timeout: 1)
    let rowsHere = transport.rank == 0 ? [0, 64] : [0, 0]
    let rowsThere = transport.rank == 0 ? [0, 0] : [64, 0]
    let rows = UnsafeMutableRawPointer.allocate(byteCount: 64 << 20, alignment: 64)
    let pending = try transport.start(
      RowExchange(
        send: rows, sendRows: rowsHere, receive: rows, receiveRows: rowsThere, rowBytes: 1 << 20,
        step: "dispatch"))
    if transport.rank == 1 { sleep(60) }
    let late = try failure(of: "dispatch") { () throws(EngineError) in try pending.wait() }
    rows.deallocate()
    try expect(late.kind == .timeout && late.message.contains("for rank 1,"), "\(late)")
    let refused = try failure(of: "end") { () throws(EngineError) in try MPITransport.finalize() }
    try expect(refused.message.contains("MPI is no longer used by this process"), "\(refused)")
  }

  /// Rank 1 never comes to the end of MPI.
  func missingAtEnd() throws {
    let transport = try open(timeout: 1)
    if transport.rank == 1 { sleep(60) }
    let late = try failure(of: "end") { () throws(EngineError) in try MPITransport.finalize() }
    try expect(late.kind == .timeout && late.message.contains("within 1 s"), "\(late)")
  }
}
