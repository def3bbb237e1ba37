/// Owned memory, aligned to cache lines.
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

  /// `count` elements starting at element `offset`; the caller stays within bounds.
  func elements<R: Scalar>(_: R.Type, from offset: Int, count: Int) -> Elements<R> {
    assert((offset + count) * MemoryLayout<R>.stride <= byteCount)
    let first = unsafe base.assumingMemoryBound(to: R.self) + offset
    return unsafe Elements(base: first, count: count)
  }
}
