import AutoEPCore
import AutoEPSystem

/// Tensors and arenas of one law, freed together; guard bytes around each detect writes out of bounds.
final class LawHeap: Sendable {
  private struct Block {
    let start: Storage
    let byteCount: Int
  }

  private static let margin = 256
  private static let mark: UInt8 = 0xEE
  private let memory: any LawMemory
  private let blocks = Locked<[Block]>([])

  init(_ memory: any LawMemory) { self.memory = memory }

  /// Makes a tensor of values, each rounded to the type.
  func tensor(_ values: [Double], _ shape: [Int], _ dtype: DataType) throws -> TensorView {
    precondition(values.count == shape.reduce(1, *))
    return TensorView(try allocate(dtype.bytes(of: values)), shape: shape, dtype: dtype)
  }

  /// Makes a tensor of NaN (integers: -77), so that unwritten elements are noticed.
  func empty(_ shape: [Int], _ dtype: DataType) throws -> TensorView {
    let isInteger = dtype == .i32 || dtype == .i64
    return try tensor(
      Array(repeating: isInteger ? -77 : .nan, count: shape.reduce(1, *)), shape, dtype)
  }

  /// The values of a tensor after all work has ended.
  func values(_ tensor: TensorView) throws -> [Double] {
    tensor.dtype.values(of: try memory.bytes(at: tensor.storage, count: tensor.byteCount))
  }

  /// Makes memory of exactly `byteCount` bytes with undefined contents.
  func arena(_ byteCount: Int) throws -> Arena {
    Arena(
      base: try allocate(Array(repeating: 0xA5, count: byteCount)), byteCount: byteCount)
  }

  /// Frees everything; records a failure if guard bytes have changed.
  func release(_ record: LawRecord) throws {
    let taken = blocks.withLock { blocks in
      defer { blocks = [] }
      return blocks
    }
    defer { for block in taken { memory.free(block.start) } }
    for block in taken {
      let before = try memory.bytes(at: block.start, count: Self.margin)
      let after = try memory.bytes(
        at: block.start.advanced(by: Self.margin + block.byteCount), count: Self.margin)
      record.expect(
        before.allSatisfy { $0 == Self.mark }, "wrote before a buffer of \(block.byteCount) bytes")
      record.expect(
        after.allSatisfy { $0 == Self.mark }, "wrote behind a buffer of \(block.byteCount) bytes")
    }
  }

  private func allocate(_ bytes: [UInt8]) throws -> Storage {
    let marks = [UInt8](repeating: Self.mark, count: Self.margin)
    let start = try memory.allocate(marks + bytes + marks)
    blocks.withLock { $0.append(Block(start: start, byteCount: bytes.count)) }
    return start.advanced(by: Self.margin)
  }
}
