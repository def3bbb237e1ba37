// The header documents the functions.
// swift-format-ignore-file: AllPublicDeclarationsHaveDocumentation
import AutoEPCore
import AutoEPSystem
import CAutoEP

@_cdecl("autoep_all_to_all") @implementation
public func autoep_all_to_all(
  _ comm: autoep_comm, _ args: UnsafePointer<autoep_all_to_all_args>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let transport = try communicators.find(comm).transport
    let check = TensorChecker()
    let args = try unsafe check.structure(args, "args")
    let all: [DataType] = [.f32, .f64, .bf16, .f16, .i32, .i64]
    let send = try unsafe check.anyShape(args.send, "send", all)
    let receive = try unsafe check.anyShape(args.receive, "receive", all)
    guard send.dtype == receive.dtype, send.shape.dropFirst() == receive.shape.dropFirst() else {
      throw check.error(
        "receive",
        "is \(receive.dtype.name) of shape \(receive.shape); expected the same rows as"
          + " send, \(send.dtype.name) of shape \(send.shape)")
    }
    let exchange = try unsafe RowExchange(
      send: send.storage,
      sendRows: check.splits(args.send_rows, "send_rows", transport.size, rows: send.shape[0]),
      receive: receive.storage,
      receiveRows: check.splits(
        args.receive_rows, "receive_rows", transport.size, rows: receive.shape[0]),
      rowBytes: send.rowElementCount * send.dtype.byteCount, step: "all-to-all")
    try transport.exchange(exchange)
  }
}

@_cdecl("autoep_exchange_counts") @implementation
public func autoep_exchange_counts(
  _ comm: autoep_comm, _ counts: UnsafePointer<Int64>!, _ received: UnsafeMutablePointer<Int64>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let transport = try communicators.find(comm).transport
    let check = TensorChecker()
    let target = try unsafe check.pointer(received, "received")
    let arrived = try transport.exchangeCounts(
      unsafe check.numbers(counts, "counts", transport.size))
    for (rank, count) in arrived.enumerated() { unsafe target[rank] = Int64(count) }
  }
}

@_cdecl("autoep_all_reduce") @implementation
public func autoep_all_reduce(
  _ comm: autoep_comm, _ data: UnsafePointer<autoep_tensor>!,
  _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    let transport = try communicators.find(comm).transport
    try transport.allReduceSum(unsafe TensorChecker().anyShape(data, "data", [.f32, .f64]))
  }
}

@_cdecl("autoep_barrier") @implementation
public func autoep_barrier(
  _ comm: autoep_comm, _ error: UnsafeMutablePointer<autoep_error>!
) -> autoep_status {
  unsafe guarded(error) { () throws(EngineError) in
    try communicators.find(comm).transport.barrier()
  }
}

extension TensorChecker {
  /// Reads an array of `count` numbers.
  fileprivate func numbers(
    _ pointer: UnsafePointer<Int64>?, _ name: String, _ count: Int
  ) throws(EngineError) -> [Int] {
    guard let pointer = unsafe pointer else {
      throw error(name, "is NULL; expected \(count) numbers, one per rank")
    }
    return (0..<count).map { unsafe Int(pointer[$0]) }
  }

  /// Reads row counts, one per rank, that sum to the rows of their tensor.
  fileprivate func splits(
    _ pointer: UnsafePointer<Int64>?, _ name: String, _ ranks: Int, rows: Int
  ) throws(EngineError) -> [Int] {
    let counts = try unsafe numbers(pointer, name, ranks)
    var remaining = rows
    for count in counts {
      guard count >= 0, count <= remaining else {
        throw error(name, "is \(counts); expected numbers from 0 up that sum to \(rows)")
      }
      remaining -= count
    }
    guard remaining == 0 else {
      throw error(name, "is \(counts); expected a sum of \(rows), the rows of the tensor")
    }
    return counts
  }
}
