import Glibc
import Synchronization

/// Memory that tiles are computed in, kept for the next product.
final class ScratchStore: Sendable {
  private let idle = Mutex<[ScratchMemory]>([])

  /// Lends memory of at least `byteCount` bytes.
  func withMemory<Result>(byteCount: Int, _ body: (ScratchMemory) -> Result) -> Result {
    let memory =
      idle.withLock { idle in
        idle.lastIndex { $0.byteCount >= byteCount }.map { idle.remove(at: $0) }
      } ?? ScratchMemory(byteCount: byteCount)
    defer { idle.withLock { $0.append(memory) } }
    return body(memory)
  }
}

/// Owned memory on cache lines of its own.
@safe
final class ScratchMemory: @unchecked Sendable {
  let byteCount: Int
  private let base: UnsafeMutableRawPointer

  init(byteCount: Int) {
    self.byteCount = byteCount
    unsafe base = UnsafeMutableRawPointer.allocate(byteCount: byteCount, alignment: 64)
  }

  deinit { unsafe base.deallocate() }

  /// `count` elements from the `offset`-th on; the caller stays inside the memory.
  func elements<R: Real>(_: R.Type, from offset: Int, count: Int) -> Elements<R> {
    assert((offset + count) * MemoryLayout<R>.stride <= byteCount)
    let first = unsafe base.assumingMemoryBound(to: R.self) + offset
    return unsafe Elements(base: first, count: count)
  }
}

/// The packed blocks of one tile and its sums.
struct GEMMScratch<R: Real> {
  let a: Elements<R>
  let b: Elements<R>
  let sums: Elements<R>

  init(_ memory: ScratchMemory, _ blocking: GEMMBlocking) {
    let (aCount, bCount) = (blocking.rows * blocking.depth, blocking.columns * blocking.depth)
    a = memory.elements(R.self, from: 0, count: aCount)
    b = memory.elements(R.self, from: aCount, count: bCount)
    sums = memory.elements(
      R.self, from: aCount + bCount, count: blocking.rows * blocking.columns)
  }

  static func byteCount(_ blocking: GEMMBlocking) -> Int {
    let count =
      (blocking.rows + blocking.columns) * blocking.depth + blocking.rows * blocking.columns
    return count * MemoryLayout<R>.stride
  }
}
