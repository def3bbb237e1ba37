/// Counts the chunks between this rank and one peer over the life of the group.
struct PushLedger {
  /// Chunks that all earlier exchanges have sent to the peer.
  var sent: UInt64 = 0
  /// Chunks that all earlier exchanges have received from the peer.
  var received: UInt64 = 0
  /// Chunks that the peer is known to have taken out of its memory when the stream has run what is enqueued so far.
  var taken: UInt64 = 0
}

/// The bytes and chunks that one exchange moves between this rank and one peer.
struct PushMessage {
  let peer: Int
  /// The bytes to send, as a range of the exchange's send memory.
  let send: Range<Int>
  /// The bytes to receive, as a range of its receive memory.
  let receive: Range<Int>
  let sendChunks: Int
  let receiveChunks: Int

  init(_ peer: Int, send: Range<Int>, receive: Range<Int>, _ rings: PushRings) {
    (self.peer, self.send, self.receive) = (peer, send, receive)
    sendChunks = rings.chunks(send.count)
    receiveChunks = rings.chunks(receive.count)
  }
}
