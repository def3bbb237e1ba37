/// The chunks between this rank and one peer, over the life of the group.
struct PushLedger {
  /// Chunks of all exchanges before.
  var sent: UInt64 = 0
  var received: UInt64 = 0
  /// Chunks of `sent` that the peer has taken out by the time that the stream comes here.
  var taken: UInt64 = 0
}

/// What one exchange moves between this rank and one peer.
struct PushMessage {
  let peer: Int
  /// Bytes of the memory to send.
  let send: Range<Int>
  /// Bytes of the memory to receive.
  let receive: Range<Int>
  let sendChunks: Int
  let receiveChunks: Int

  init(_ peer: Int, send: Range<Int>, receive: Range<Int>, _ rings: PushRings) {
    (self.peer, self.send, self.receive) = (peer, send, receive)
    sendChunks = rings.chunks(send.count)
    receiveChunks = rings.chunks(receive.count)
  }
}
