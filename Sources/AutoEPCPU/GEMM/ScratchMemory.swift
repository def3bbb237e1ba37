/// Owned memory on cache lines of its own.
@safe
final class ScratchMemory {
  let byteCount: Int
  /// The first byte.
  let base: UnsafeMutableRawPointer

  init(byteCount: Int) {
    self.byteCount = byteCount
    unsafe base = UnsafeMutableRawPointer.allocate(byteCount: max(byteCount, 64), alignment: 64)
  }

  deinit { unsafe base.deallocate() }

  /// `count` elements from the `offset`-th on; the caller stays inside the memory.
  func elements<R: Scalar>(_: R.Type, from offset: Int, count: Int) -> Elements<R> {
    assert((offset + count) * MemoryLayout<R>.stride <= byteCount)
    let first = unsafe base.assumingMemoryBound(to: R.self) + offset
    return unsafe Elements(base: first, count: count)
  }
}
