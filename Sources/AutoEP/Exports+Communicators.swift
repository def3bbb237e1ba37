// The header documents the functions.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation
import AutoEPCallback
import AutoEPCore
import AutoEPMPI
import AutoEPNCCL
import AutoEPPush
import AutoEPSystem
import CAutoEP

@_cdecl("autoep_comm_create_self") @implementation
public func autoep_comm_create_self(
  _ comm: UnsafeMutablePointer<autoep_comm>!, _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let target = try unsafe TensorChecker().pointer(comm, "comm")
    unsafe target.pointee = communicators.insert(Communicator(SelfTransport()))
  }
}

@_cdecl("autoep_comm_create_local") @implementation
public func autoep_comm_create_local(
  _ size: Int32, _ timeout_seconds: Double, _ comms: UnsafeMutablePointer<autoep_comm>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let check = TensorChecker()
    let target = try unsafe check.pointer(comms, "comms")
    let most: Int32 = 1024
    guard (1...most).contains(size) else {
      throw check.error("size", "is \(size); expected 1 to \(most)")
    }
    let world = try InProcessTransport.makeWorld(
      size: Int(size), timeout: check.timeout(timeout_seconds))
    for (rank, transport) in world.enumerated() {
      unsafe target[rank] = communicators.insert(Communicator(transport))
    }
  }
}

@_cdecl("autoep_comm_create_callback") @implementation
public func autoep_comm_create_callback(
  _ transport: UnsafePointer<autoep_transport>!, _ timeout_seconds: Double,
  _ comm: UnsafeMutablePointer<autoep_comm>!, _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let check = TensorChecker()
    let target = try unsafe check.pointer(comm, "comm")
    let table = try unsafe check.structure(transport, "transport")
    let timeout = try check.timeout(timeout_seconds)
    unsafe target.pointee = communicators.insert(
      Communicator(try unsafe CallbackTransport(table, timeout: timeout)))
  }
}

@_cdecl("autoep_comm_create_mpi") @implementation
public func autoep_comm_create_mpi(
  _ config: UnsafePointer<autoep_mpi_config>!, _ comm: UnsafeMutablePointer<autoep_comm>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let check = TensorChecker()
    let target = try unsafe check.pointer(comm, "comm")
    let config = try unsafe check.structure(config, "config")
    guard let path = unsafe config.library_path else {
      throw check.error("config.library_path", "is NULL; expected the path of libautoep_mpi.so")
    }
    var chosen: [Int32]?
    if let ranks = unsafe config.ranks {
      let (count, most) = unsafe (config.num_ranks, Int32(1 << 20))
      guard (1...most).contains(count) else {
        throw check.error("config.num_ranks", "is \(count); expected 1 to \(most) ranks")
      }
      chosen = unsafe Array(UnsafeBufferPointer(start: ranks, count: Int(count)))
    }
    let transport = try unsafe MPITransport.open(
      library: String(cString: path), ranks: chosen, timeout: check.timeout(config.timeout_seconds))
    unsafe target.pointee = communicators.insert(Communicator(transport))
  }
}

@_cdecl("autoep_nccl_unique_id") @implementation
public func autoep_nccl_unique_id(
  _ library_path: UnsafePointer<CChar>!, _ unique_id: UnsafeMutablePointer<UInt8>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let target = try unsafe TensorChecker().pointer(unique_id, "unique_id")
    let path = unsafe library_path.map { unsafe String(cString: $0) }
    let bytes = try NCCLTransport.uniqueID(libraryPath: path)
    for (index, byte) in bytes.enumerated() { unsafe target[index] = byte }
  }
}

@_cdecl("autoep_comm_create_nccl") @implementation
public func autoep_comm_create_nccl(
  _ config: UnsafePointer<autoep_nccl_config>!, _ comm: UnsafeMutablePointer<autoep_comm>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let check = TensorChecker()
    let target = try unsafe check.pointer(comm, "comm")
    let config = try unsafe check.structure(config, "config")
    guard let id = unsafe config.unique_id else {
      throw check.error(
        "config.unique_id",
        "is NULL; expected the \(AUTOEP_NCCL_ID_SIZE) bytes of autoep_nccl_unique_id")
    }
    let (rank, size) = unsafe (config.rank, config.size)
    let most: Int32 = 1 << 20
    guard (1...most).contains(size), (0..<size).contains(rank) else {
      throw check.error(
        "config.rank", "is \(rank) of \(size); expected 0 <= rank < size <= \(most)")
    }
    let transport = try unsafe NCCLTransport(
      uniqueID: Array(UnsafeBufferPointer(start: id, count: Int(AUTOEP_NCCL_ID_SIZE))),
      rank: Int(rank), size: Int(size), device: Int(config.device_id),
      timeout: check.timeout(config.timeout_seconds),
      libraryPath: config.library_path.map { unsafe String(cString: $0) })
    unsafe target.pointee = communicators.insert(Communicator(transport))
  }
}

@_cdecl("autoep_comm_create_push") @implementation
public func autoep_comm_create_push(
  _ config: UnsafePointer<autoep_push_config>!, _ comm: UnsafeMutablePointer<autoep_comm>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let check = TensorChecker()
    let target = try unsafe check.pointer(comm, "comm")
    let config = try unsafe check.structure(config, "config")
    let control = try unsafe communicators.find(config.control).transport
    // PushTransport checks the sizes, because a rank that fails must tell the others.
    let (slots, chunkBytes) = unsafe (Int(config.slots), Int(config.chunk_bytes))
    let transport = try unsafe PushTransport(
      over: control, device: Int(config.device_id), timeout: config.timeout_seconds,
      chunkBytes: chunkBytes == 0 ? nil : chunkBytes, slots: slots == 0 ? nil : slots,
      nvrtcPath: config.nvrtc_path.map { unsafe String(cString: $0) })
    unsafe target.pointee = communicators.insert(Communicator(transport))
  }
}

@_cdecl("autoep_comm_abort") @implementation
public func autoep_comm_abort(
  _ comm: autoep_comm, _ reason: UnsafePointer<CChar>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let transport = try communicators.find(comm).transport
    let text = unsafe reason.map { unsafe String(cString: $0) } ?? "no reason given"
    transport.abort(
      EngineError(
        .communication, "rank \(transport.rank) gave the group up: \(text)", step: "abort",
        ranks: [transport.rank]))
  }
}

@_cdecl("autoep_comm_health") @implementation
public func autoep_comm_health(
  _ comm: autoep_comm, _ health: UnsafeMutablePointer<autoep_error>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let check = TensorChecker()
    let target = try unsafe check.pointer(health, "health")
    _ = try unsafe check.structure(UnsafePointer(health), "health")
    let failure = try communicators.find(comm).transport.health.failure
    unsafe target.pointee.status = autoep_status(AUTOEP_OK)
    if let failure { unsafe write(failure, to: target) }
  }
}

@_cdecl("autoep_mpi_finalize") @implementation
public func autoep_mpi_finalize(_ error: UnsafeMutablePointer<autoep_error>!) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in try MPITransport.finalize() }
}

@_cdecl("autoep_comm_free") @implementation
public func autoep_comm_free(
  _ comm: autoep_comm, _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in try communicators.remove(comm) }
}

@_cdecl("autoep_comm_rank") @implementation
public func autoep_comm_rank(
  _ comm: autoep_comm, _ rank: UnsafeMutablePointer<Int32>!,
  _ size: UnsafeMutablePointer<Int32>!, _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let check = TensorChecker()
    let rankTarget = try unsafe check.pointer(rank, "rank")
    let sizeTarget = try unsafe check.pointer(size, "size")
    let transport = try communicators.find(comm).transport
    unsafe rankTarget.pointee = Int32(transport.rank)
    unsafe sizeTarget.pointee = Int32(transport.size)
  }
}

extension TensorChecker {
  /// A deadline for exchanges.
  fileprivate func timeout(_ seconds: Double) throws(EngineError) -> Double {
    guard seconds > 0, seconds.isFinite else {
      throw error("timeout_seconds", "is \(seconds); expected a finite number above 0")
    }
    return seconds
  }
}
