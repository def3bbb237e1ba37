import AutoEPCUDA
import AutoEPCore
import AutoEPSystem
import CNCCL

/// One rank's communicator of NCCL, made nonblocking: each call returns at once, and `isReady` tells when NCCL has done
/// what it asks for.
///
/// Threads call one at a time, and a communicator that was aborted is never touched again.
@safe
final class NCCLCommunicator: Sendable {
  private let library: NCCLLibrary
  private let context: DeviceContext
  /// Nil once it was aborted or destroyed.
  private let handle: Locked<NCCLHandle?>

  /// Starts to make a communicator on the device of a context.
  init(
    _ library: NCCLLibrary, uniqueID: [UInt8], rank: Int, size: Int, in context: DeviceContext
  ) throws(EngineError) {
    var id = nccl_unique_id()
    unsafe withUnsafeMutableBytes(of: &id) { unsafe $0.copyBytes(from: uniqueID) }
    var config = unsafe nccl_config(
      size: MemoryLayout<nccl_config>.size, magic: nccl_config_magic,
      version: UInt32(nccl_oldest_version), blocking: 0, cga_cluster_size: nccl_undefined,
      min_ctas: nccl_undefined, max_ctas: nccl_undefined, net_name: nil,
      split_share: nccl_undefined)
    var communicator: nccl_communicator?
    let result = try context.run { () throws(EngineError) in
      unsafe library.commInitRankConfig(&communicator, Int32(size), id, Int32(rank), &config)
    }
    try library.check("ncclCommInitRankConfig", result)
    guard let communicator = unsafe communicator else {
      throw EngineError(.internal, "ncclCommInitRankConfig gave no communicator")
    }
    self.library = library
    self.context = context
    handle = Locked(unsafe NCCLHandle(communicator: communicator))
  }

  /// Whether the last call has come to its end; nil once the communicator is closed. Throws what it failed with.
  func isReady() throws(EngineError) -> Bool? {
    try use { (handle) throws(EngineError) in
      var state = nccl_success
      let result = unsafe library.commGetAsyncError(handle.communicator, &state)
      try library.check("ncclCommGetAsyncError", result, of: handle)
      try library.check("an earlier call of NCCL", state, of: handle)
      return state == nccl_success
    }
  }

  /// Enqueues transfers on a stream, given by its handle, as one group. Returns false where the communicator is closed.
  func enqueue(
    sends: [NCCLTransfer], receives: [NCCLTransfer], on stream: UInt
  ) throws(EngineError) -> Bool {
    try use { (handle) throws(EngineError) in
      try context.run { () throws(EngineError) in
        try library.check("ncclGroupStart", library.groupStart(), of: handle)
        var failure: EngineError?
        do throws(EngineError) {
          for transfer in sends { try send(transfer, handle, on: stream) }
          for transfer in receives { try receive(transfer, handle, on: stream) }
        } catch {
          failure = error
        }
        // A group that was begun has to be ended in its thread, also after a failure.
        let ended = library.groupEnd()
        if let failure { throw failure }
        try library.check("ncclGroupEnd", ended, of: handle)
      }
      return true
    } ?? false
  }

  /// Stops what is under way, also on the device, and closes the communicator. Waits for no other rank.
  func abort() {
    guard let handle = close() else { return }
    _ = try? context.run { () throws(EngineError) in
      unsafe library.commAbort(handle.communicator)
    }
  }

  /// Closes the communicator when what is under way has ended. Waits for the other ranks of this host, which have to
  /// close theirs.
  func destroy() {
    guard let handle = close() else { return }
    _ = try? context.run { () throws(EngineError) in
      unsafe library.commDestroy(handle.communicator)
    }
  }

  private func send(
    _ transfer: NCCLTransfer, _ handle: NCCLHandle, on stream: UInt
  ) throws(EngineError) {
    let result = unsafe library.send(
      UnsafeRawPointer(bitPattern: UInt(transfer.address.bits)), transfer.byteCount, nccl_uint8,
      Int32(transfer.peer), handle.communicator, UnsafeMutableRawPointer(bitPattern: stream))
    try library.check("ncclSend", result, of: handle)
  }

  private func receive(
    _ transfer: NCCLTransfer, _ handle: NCCLHandle, on stream: UInt
  ) throws(EngineError) {
    let result = unsafe library.receive(
      UnsafeMutableRawPointer(bitPattern: UInt(transfer.address.bits)), transfer.byteCount,
      nccl_uint8, Int32(transfer.peer), handle.communicator,
      UnsafeMutableRawPointer(bitPattern: stream))
    try library.check("ncclRecv", result, of: handle)
  }

  private func close() -> NCCLHandle? {
    handle.withLock { handle in
      defer { handle = nil }
      return handle
    }
  }

  private func use<Result>(
    _ body: (NCCLHandle) throws(EngineError) -> Result
  ) throws(EngineError) -> Result? {
    try handle.withLock { (handle: inout NCCLHandle?) throws(EngineError) -> Result? in
      guard let handle else { return nil }
      return try body(handle)
    }
  }
}
