/// The addresses of rows, padded with copies of the last one to a whole tile of a kernel.
@safe
struct RowAddresses {
  let count: Int
  /// The words from one depth to the next if the rows are adjacent columns; 0 if depths are contiguous.
  let step: Int
  /// Whether writes to the rows bypass the caches.
  let areStreamed: Bool
  private let base: UnsafeMutablePointer<UnsafeRawPointer?>

  /// Stores the addresses in memory of the workbench.
  init(
    count: Int, step: Int = 0, areStreamed: Bool = false, tileRows: Int = 1, on bench: Workbench,
    for purpose: Workbench.Purpose, address: (Int) -> UnsafeRawPointer?
  ) {
    let padded = count.roundedUp(to: tileRows)
    let memory = unsafe bench.memory(
      for: purpose, byteCount: padded * MemoryLayout<UnsafeRawPointer?>.stride)
    unsafe base = memory.base.assumingMemoryBound(to: UnsafeRawPointer?.self)
    self.count = count
    self.step = step
    self.areStreamed = areStreamed
    for row in 0..<count { unsafe base[row] = unsafe address(row) }
    for row in count..<padded { unsafe base[row] = unsafe base[count - 1] }
  }

  private init(_ all: RowAddresses, _ range: Range<Int>) {
    assert(range.upperBound <= all.count)
    unsafe base = unsafe all.base + range.lowerBound
    count = range.count
    step = all.step
    areStreamed = all.areStreamed
  }

  /// A range of the addresses.
  subscript(range: Range<Int>) -> RowAddresses { RowAddresses(self, range) }

  /// The addresses for C.
  var pointer: UnsafePointer<UnsafeRawPointer?> { unsafe UnsafePointer(base) }

  /// The addresses for C functions that write the rows.
  var targets: UnsafePointer<UnsafeMutableRawPointer?> {
    unsafe UnsafeRawPointer(base).assumingMemoryBound(to: UnsafeMutableRawPointer?.self)
  }
}
