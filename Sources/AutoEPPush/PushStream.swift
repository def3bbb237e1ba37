import AutoEPCUDA
import AutoEPCore
import AutoEPSystem
import CKernels

/// Enqueues the exchanges of a group, one behind the other.
///
/// In round c of an exchange, a rank sends chunk c of its message to each peer, waits for chunk c of each peer's
/// message, copies these out and gives their slots back. This cannot deadlock. Consider the earliest round that some
/// rank does not finish: all ranks have finished the rounds before it, so the slots that it needs have been given back.
/// Hence all its chunks are sent, and the waits for them end.
final class PushStream {
  private let memory: PushMemory
  private let kernels: PushKernels
  private let context: DeviceContext
  private let group: PushGroup
  private var ledgers: [PushLedger]
  private var exchanges: UInt64 = 0
  /// The stream of the last exchange, and the event behind it.
  private var last: (stream: UInt, end: DeviceEvent)?

  init(_ memory: PushMemory, _ kernels: PushKernels, _ context: DeviceContext, _ group: PushGroup) {
    (self.memory, self.kernels, self.context, self.group) = (memory, kernels, context, group)
    ledgers = Array(repeating: PushLedger(), count: group.size)
  }

  /// The event behind the last exchange.
  var end: DeviceEvent? { last?.end }

  /// Enqueues an exchange. After a failure the ranks count chunks differently, so the caller must end the group.
  func enqueue(
    _ exchange: RowExchange, from send: DeviceAddress, to receive: DeviceAddress, on stream: UInt
  ) throws(EngineError) {
    if let last, last.stream != stream { try last.end.delay(stream) }
    exchanges += 1
    group.note(exchange.step, exchange: exchanges)
    let (sends, receives) = (exchange.sendRanges, exchange.receiveRanges)
    let rank = group.rank
    try context.copy(
      sends[rank].count, from: send + sends[rank].lowerBound,
      to: receive + receives[rank].lowerBound, on: stream)
    // In order of distance, so that no two ranks begin with the same peer.
    let messages = (1..<group.size).map { step in
      let peer = (rank + step) % group.size
      return PushMessage(peer, send: sends[peer], receive: receives[peer], memory.rings)
    }
    try move(messages, from: send, to: receive, on: stream)
    for message in messages {
      ledgers[message.peer].sent += UInt64(message.sendChunks)
      ledgers[message.peer].received += UInt64(message.receiveChunks)
    }
    try mark(stream)
  }

  private func mark(_ stream: UInt) throws(EngineError) {
    guard let end else {
      last = (stream, try DeviceEvent(behindWorkOf: stream, in: context))
      return
    }
    try end.move(behindWorkOf: stream)
    last = (stream, end)
  }

  private func move(
    _ messages: [PushMessage], from send: DeviceAddress, to receive: DeviceAddress, on stream: UInt
  ) throws(EngineError) {
    let rounds = messages.map { max($0.sendChunks, $0.receiveChunks) }.max() ?? 0
    if rounds > 0 { try giveBack(messages, before: 0, on: stream) }
    for round in 0..<rounds {
      for message in messages where round < message.sendChunks {
        let part = memory.rings.chunk(round, of: message.send)
        let slot = memory.slot(
          to: message.peer, chunk: ledgers[message.peer].sent + UInt64(round))
        try context.copy(part.count, from: send + part.lowerBound, to: slot, on: stream)
      }
      try signal(messages, round, on: stream)
      for message in messages where round < message.receiveChunks {
        let part = memory.rings.chunk(round, of: message.receive)
        let slot = memory.slot(
          from: message.peer, chunk: ledgers[message.peer].received + UInt64(round))
        try context.copy(part.count, from: slot, to: receive + part.lowerBound, on: stream)
      }
      try giveBack(messages, before: round + 1, on: stream)
    }
  }

  /// Signals the chunks of a round to the peers, and waits for theirs.
  private func signal(
    _ messages: [PushMessage], _ round: Int, on stream: UInt
  ) throws(EngineError) {
    let call = call(messages) { message, entry in
      let ledger = ledgers[message.peer]
      if round < message.sendChunks {
        entry.sent = ledger.sent + UInt64(round) + 1
        entry.sent_bytes = UInt64(message.send.count)
      }
      if round < message.receiveChunks {
        entry.received = ledger.received + UInt64(round) + 1
        entry.received_bytes = UInt64(message.receive.count)
      }
    }
    try kernels.signalAndWait(call, on: stream)
    // A peer signals a round only after it has taken out the chunks of the rounds before.
    for message in messages where round < message.receiveChunks {
      let taken = ledgers[message.peer].sent + UInt64(min(round, message.sendChunks))
      ledgers[message.peer].taken = max(ledgers[message.peer].taken, taken)
    }
  }

  /// Gives back the slots of the previous round, and waits for room at each peer that is not known to have it.
  private func giveBack(
    _ messages: [PushMessage], before round: Int, on stream: UInt
  ) throws(EngineError) {
    var isNeeded = false
    let slots = UInt64(memory.rings.slots)
    let call = call(messages) { message, entry in
      let ledger = ledgers[message.peer]
      if round > 0, round <= message.receiveChunks {
        entry.received = ledger.received + UInt64(round)
        isNeeded = true
      }
      let next = ledger.sent + UInt64(round) + 1
      if round < message.sendChunks, next > ledger.taken + slots {
        entry.room = next - slots
        ledgers[message.peer].taken = next - slots
        isNeeded = true
      }
    }
    if isNeeded { try kernels.giveBackAndWait(call, on: stream) }
  }

  private func call(
    _ messages: [PushMessage], _ fill: (PushMessage, inout PushPeer) -> Void
  ) -> PushCall {
    memory.call(exchange: exchanges, seconds: group.timeout) { peer, entry in
      // Messages are in order of their peers' distance from this rank.
      fill(messages[(peer - group.rank - 1 + group.size) % group.size], &entry)
    }
  }
}
