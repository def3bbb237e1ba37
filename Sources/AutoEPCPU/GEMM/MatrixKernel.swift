import CMicroKernels

/// The products of one stored type on this processor: rows, each at its own address, times a panel of
/// columns. Depth counts in words, of one or two stored values; packing.h tells how they are laid out.
///
/// Sendable, for the functions keep no state.
@safe
struct MatrixKernel<Wide: Real>: @unchecked Sendable {
  /// As `matrix_kernel.multiply`.
  typealias Multiply = (UnsafePointer<matrix_product>, UnsafeMutablePointer<lookahead>) -> Void

  /// Rows of a tile.
  let rows: Int
  /// The most columns of a tile.
  let columns: Int
  /// Columns come in multiples of these.
  let lanes: Int

  let wordSize: Int
  private let valuesPerWord: Int
  private let readsStoredRows: Bool
  private let multiply: Multiply
  let packing: packing

  /// A kernel in C.
  init(_ kernel: matrix_kernel) {
    let multiply = unsafe kernel.multiply
    unsafe self.init(
      kernel, rows: kernel.rows, columns: kernel.columns, lanes: 64 / kernel.word_size
    ) { unsafe multiply?($0, $1) }
  }

  /// Another product of tiles of one size, with the packing of a kernel in C.
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

  /// Words of a vector: rows of words are multiples of these.
  var wordLanes: Int { 64 / wordSize }

  /// The words of so many values.
  func words(of depth: Int) -> Int { (depth + valuesPerWord - 1) / valuesPerWord }

  /// The values of some words of a depth.
  func values(of words: Range<Int>, depth: Int) -> Range<Int> {
    words.lowerBound * valuesPerWord..<min(words.upperBound * valuesPerWord, depth)
  }

  /// The distance, in words, of packed rows.
  func rowStride(depth: Int) -> Int { words(of: depth).roundedUp(to: wordLanes) }

  /// Whether stored rows of this depth are read where they are.
  func readsInPlace(depth: Int) -> Bool { readsStoredRows && depth % valuesPerWord == 0 }

  /// The words of a depth, in blocks that are summed up before they are added to the sums. They decide the
  /// bits of a result, and are the same for all sizes.
  func depthBlocks(of depth: Int) -> Chunks { (0..<words(of: depth)).chunks(of: 2048 / wordSize) }

  /// Room for lines to ask for while so many rows are multiplied by columns, as often as `products` says.
  func lookahead(
    rows: Int, columns: Int, depth: Int, products: Int = 1, on bench: Workbench
  ) -> Lookahead {
    let blocks = depthBlocks(of: depth)
    let tiles = ((rows - 1) / self.rows + 1) * ((columns - 1) / self.columns + 1)
    return Lookahead(
      calls: tiles * blocks.count * products, words: blocks.first?.count ?? 1, on: bench)
  }

  /// sums [rows, panels.columns] = rows · panels. Rows that fill up the last tile get sums too, which mean
  /// nothing.
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

  /// Adds to the sums, or begins them with, what a block of words makes of rows · panels, where these words
  /// are those from `first` on.
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
