/// The addresses of rows. Behind the last stand copies of it, up to a whole tile of a kernel.
@safe
struct RowAddresses {
  let count: Int
  /// Where rows stand side by side, the words from one depth to the next; 0 where depths run along memory.
  let step: Int
  /// Whether what is written there goes past the caches.
  let areStreamed: Bool
  private let base: UnsafeMutablePointer<UnsafeRawPointer?>

  /// Fills a piece of the workbench.
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

  /// Some of them.
  subscript(range: Range<Int>) -> RowAddresses { RowAddresses(self, range) }

  /// For C.
  var pointer: UnsafePointer<UnsafeRawPointer?> { unsafe UnsafePointer(base) }

  /// For C that writes the rows.
  var targets: UnsafePointer<UnsafeMutableRawPointer?> {
    unsafe UnsafeRawPointer(base).assumingMemoryBound(to: UnsafeMutableRawPointer?.self)
  }
}
