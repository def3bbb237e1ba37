import CMicroKernels

/// The matrix kernel of one stored type on this processor. It multiplies rows, each at its own address, by a panel of
/// columns. Depth is counted in words of one or two stored values; packing.h describes their layout.
///
/// Sendable, because the functions keep no state.
@safe
struct MatrixKernel<Wide: Real>: @unchecked Sendable {
  /// The signature of `matrix_kernel.multiply`.
  typealias Multiply = (UnsafePointer<matrix_product>, UnsafeMutablePointer<lookahead>) -> Void

  /// The rows of a tile.
  let rows: Int
  /// The largest number of columns of a tile.
  let columns: Int
  /// The number of columns is a multiple of this.
  let lanes: Int

  let wordSize: Int
  private let valuesPerWord: Int
  private let readsStoredRows: Bool
  private let multiply: Multiply
  let packing: packing

  /// Wraps a kernel in C.
  init(_ kernel: matrix_kernel) {
    let multiply = unsafe kernel.multiply
    unsafe self.init(
      kernel, rows: kernel.rows, columns: kernel.columns, lanes: 64 / kernel.word_size
    ) { unsafe multiply?($0, $1) }
  }

  /// Makes a kernel with another multiply function and tile size that uses the packing of a kernel in C.
  init(packing kernel: matrix_kernel, rows: Int, columns: Int, multiply: @escaping Multiply) {
    unsafe self.init(kernel, rows: rows, columns: columns, lanes: columns, multiply: multiply)
  }

  private init(
    _ kernel: matrix_kernel, rows: Int, columns: Int, lanes: Int, multiply: @escaping Multiply
  ) {
    self.rows = rows
    self.columns = columns
    self.lanes = lanes
    valuesPerWord = unsafe kernel.values_per_word
    wordSize = unsafe kernel.word_size
    readsStoredRows = unsafe kernel.reads_stored_rows != 0
    unsafe self.multiply = unsafe multiply
    packing = unsafe kernel.pack.pointee
  }

  /// The words per 64-byte vector; row strides are multiples of it.
  var wordLanes: Int { 64 / wordSize }

  /// The words that hold `depth` values.
  func words(of depth: Int) -> Int { (depth + valuesPerWord - 1) / valuesPerWord }

  /// The values in a range of a depth's words.
  func values(of words: Range<Int>, depth: Int) -> Range<Int> {
    words.lowerBound * valuesPerWord..<min(words.upperBound * valuesPerWord, depth)
  }

  /// The distance between packed rows, in words.
  func rowStride(depth: Int) -> Int { words(of: depth).roundedUp(to: wordLanes) }

  /// Whether stored rows of this depth are read in place.
  func readsInPlace(depth: Int) -> Bool { readsStoredRows && depth % valuesPerWord == 0 }

  /// Splits a depth into blocks of words. Each block is summed before it is added to the sums. The block size
  /// determines the bits of a result, so it is the same for all shapes.
  func depthBlocks(of depth: Int) -> Chunks { (0..<words(of: depth)).chunks(of: 2048 / wordSize) }

  /// Makes a lookahead for `products` multiplications of `rows` rows by these columns.
  func lookahead(
    rows: Int, columns: Int, depth: Int, products: Int = 1, on bench: Workbench
  ) -> Lookahead {
    let blocks = depthBlocks(of: depth)
    let tiles = ((rows - 1) / self.rows + 1) * ((columns - 1) / self.columns + 1)
    return Lookahead(
      calls: tiles * blocks.count * products, words: blocks.first?.count ?? 1, on: bench)
  }

  /// sums [rows, panels.columns] = rows · panels. Padding rows of the last tile get undefined sums.
  func multiply(
    _ rows: RowAddresses, by panels: Panels, depth: Int, into sums: Elements<Wide>,
    lookahead: inout Lookahead
  ) {
    let blocks = depthBlocks(of: depth)
    if blocks.isEmpty { sums.fill(0) }
    for block in blocks {
      multiply(
        rows, words: block, by: panels, from: block.lowerBound, into: sums, lookahead: &lookahead)
    }
  }

  /// Adds rows · panels over one block of words, which starts at `first`, to the sums; the first block
  /// initializes them.
  func multiply(
    _ rows: RowAddresses, words: Range<Int>, by panels: Panels, from first: Int,
    into sums: Elements<Wide>, lookahead: inout Lookahead
  ) {
    var product = unsafe matrix_product(
      rows: rows.count, depth: words.count, a: rows.pointer, first: words.lowerBound,
      step: rows.step, b: panels.memory, panel_first: first, panel_depth: panels.depth,
      columns: panels.columns, sums: sums.pointer, stride: panels.columns,
      adds: words.lowerBound > 0 ? 1 : 0)
    unsafe lookahead.use { lines in unsafe multiply(&product, lines) }
  }
}
