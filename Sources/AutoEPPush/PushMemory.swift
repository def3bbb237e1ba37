import AutoEPCUDA
import AutoEPCore
import AutoEPSystem
import CKernels

/// The memory of all ranks of a group, as mapped by one rank.
final class PushMemory: Sendable {
  let rings: PushRings
  let host: PushHost
  private let rank: Int
  /// The memory of each rank, this one's included.
  private let parts: [SharedMemory]

  init(_ parts: [SharedMemory], rings: PushRings, rank: Int, host: PushHost) {
    (self.parts, self.rings, self.rank, self.host) = (parts, rings, rank, host)
  }

  /// The slot of a chunk from this rank, in the memory of a peer.
  func slot(to peer: Int, chunk: UInt64) -> DeviceAddress {
    parts[peer].address + rings.slotOffset(from: rank, to: peer, chunk: chunk)
  }

  /// The slot of a chunk to this rank.
  func slot(from peer: Int, chunk: UInt64) -> DeviceAddress {
    parts[rank].address + rings.slotOffset(from: peer, to: rank, chunk: chunk)
  }

  /// Makes the argument of a kernel; `fill` completes the entry of each peer.
  func call(
    exchange: UInt64, seconds: Double, _ fill: (_ peer: Int, inout PushPeer) -> Void
  ) -> PushCall {
    var call = PushCall()
    call.memory = parts[rank].address.bits
    call.words = host.address.bits
    call.timeout_ns = UInt64(seconds * 1e9)
    call.exchange = exchange
    call.rank = Int32(rank)
    call.ranks = Int32(rings.ranks)
    call.slots = Int32(rings.slots)
    unsafe withUnsafeMutableBytes(of: &call.peers) { bytes in
      let peers = unsafe bytes.bindMemory(to: PushPeer.self)
      for peer in parts.indices where peer != rank {
        var entry = PushPeer()
        entry.memory = parts[peer].address.bits
        fill(peer, &entry)
        unsafe peers[peer] = entry
      }
    }
    return call
  }
}
