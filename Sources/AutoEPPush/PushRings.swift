import AutoEPCore
import AutoEPSystem
import CKernels

/// The rings of a group: each rank's memory has one for each other rank, of `slots` chunks.
struct PushRings: Equatable {
  /// The slots of a ring by default: enough to keep the links busy while a receiver copies chunks out.
  static let defaultSlots = 4
  /// The bytes of a chunk by default: at 390 GB/s, the rate of the copy engines between two H200, a kernel launch per
  /// chunk then takes less than a twentieth of the time.
  static let defaultChunkBytes = 32 << 20

  let ranks: Int
  let slots: Int
  let chunkBytes: Int

  /// Checks the sizes; chunks are rounded up to whole lines of memory.
  init(ranks: Int, slots: Int, chunkBytes: Int) throws(EngineError) {
    let (most, line) = (PUSH_MOST_RANKS, PUSH_LINE)
    guard (1...most).contains(ranks) else {
      throw EngineError(
        .unsupported, "a push group of \(ranks) ranks; expected at most \(most), on one host")
    }
    guard (1...64).contains(slots), (1...1 << 30).contains(chunkBytes) else {
      throw EngineError(
        .invalidArgument,
        "a push group with \(slots) slots of \(chunkBytes) bytes; expected 1 to 64 slots of at most"
          + " \(1 << 30) bytes")
    }
    self.ranks = ranks
    self.slots = slots
    self.chunkBytes = (chunkBytes + line - 1) / line * line
  }

  /// The bytes of a rank's memory.
  var memoryBytes: Int {
    Int(push_memory_bytes(Int32(ranks), Int32(slots), PushWord(chunkBytes)))
  }

  /// The bytes of its flags, which come before the rings.
  var flagBytes: Int { Int(push_flag_bytes(Int32(ranks), Int32(slots))) }

  /// Where a chunk from one rank lies in the memory of another.
  func slotOffset(from source: Int, to target: Int, chunk: UInt64) -> Int {
    Int(
      push_slot_offset(
        Int32(ranks), Int32(slots), PushWord(chunkBytes), Int32(source), Int32(target), chunk))
  }

  /// The chunks of a message. An empty message has one as well, so that every exchange notices a missing rank.
  func chunks(_ byteCount: Int) -> Int { max(1, (byteCount + chunkBytes - 1) / chunkBytes) }

  /// The bytes of chunk `index` of a message.
  func chunk(_ index: Int, of message: Range<Int>) -> Range<Int> {
    let start = message.lowerBound + index * chunkBytes
    return start..<min(start + chunkBytes, message.upperBound)
  }
}
