import AutoEPCore
import AutoEPMPI
import AutoEPSystem
import AutoEPTransportLaws
import Foundation

/// Checks after which MPI cannot be finalised: rank 0 reports its result and exits, and mpirun then ends
/// the rank that deserted it.
extension MPICheck {
  /// Rank 1 starts an exchange and leaves, while rows may be on their way to it. Rank 0 names it in an error and
  /// stops using MPI, so that it can free its memory.
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

  /// Rank 1 never joins the finalisation of MPI.
  func missingAtEnd() throws {
    let transport = try open(timeout: 1)
    if transport.rank == 1 { sleep(60) }
    let late = try failure(of: "end") { () throws(EngineError) in try MPITransport.finalize() }
    try expect(late.kind == .timeout && late.message.contains("within 1 s"), "\(late)")
  }
}
