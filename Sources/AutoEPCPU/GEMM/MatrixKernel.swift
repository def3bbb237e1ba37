import CMicroKernels

/// The products of one stored type on this processor: rows, each at its own address, times a panel of
/// columns. Depth counts in words, of one or two stored values; packing.h tells how they are laid out.
///
/// Sendable, for the functions keep no state.
@safe
struct MatrixKernel<Wide: Real>: @unchecked Sendable {
  /// The sums of one tile, as `matrix_kernel.multiply` says.
  typealias Multiply =
    (
      _ depth: Int, _ a: UnsafePointer<UnsafeRawPointer?>?, _ first: Int, _ b: UnsafeRawPointer?,
      _ columns: Int, _ sums: UnsafeMutableRawPointer?, _ stride: Int, _ adds: Int32
    ) -> Void

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
    ) { unsafe multiply?($0, $1, $2, $3, $4, $5, $6, $7) }
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

  /// Sums of a vector: rows of transposed sums are multiples of these.
  var sumLanes: Int { 64 / MemoryLayout<Wide>.stride }

  /// The words of so many values.
  func words(of depth: Int) -> Int { (depth + valuesPerWord - 1) / valuesPerWord }

  /// The distance, in words, of packed rows.
  func rowStride(depth: Int) -> Int { words(of: depth).roundedUp(to: 64 / wordSize) }

  /// Whether stored rows of this depth are read where they are.
  func readsInPlace(depth: Int) -> Bool { readsStoredRows && depth % valuesPerWord == 0 }

  /// Words that are summed up before they are added to the sums. It decides the bits of a result, and is
  /// the same for all sizes.
  private var depthBlock: Int { 2048 / wordSize }

  /// The calls of the kernel that a product takes.
  func tileCount(rows: Int, depth: Int) -> Int {
    ((rows - 1) / self.rows + 1) * ((words(of: depth) - 1) / depthBlock + 1)
  }

  /// sums [rows, panel.columns] = rows · panel. Rows that fill up the last tile get sums too, which mean
  /// nothing.
  ///
  /// - Parameter prefetch: goes a step on with every tile.
  func multiply(
    _ addresses: RowAddresses, by panel: Panel, depth: Int, into sums: Elements<Wide>,
    prefetch: inout Prefetch?
  ) {
    let (words, columns) = (words(of: depth), panel.columns)
    let paddedRows = addresses.count.roundedUp(to: rows)
    if words == 0 { sums[0..<paddedRows * columns].fill(0) }
    guard let target = unsafe sums.pointer else { return }
    for first in stride(from: 0, to: words, by: depthBlock) {
      let block = unsafe panel.memory + first * columns * wordSize
      for row in stride(from: 0, to: paddedRows, by: rows) {
        unsafe multiply(
          min(depthBlock, words - first), addresses.pointer + row, first, block, columns,
          target + row * columns, columns,
          first > 0 ? 1 : 0)
        prefetch?.step()
      }
    }
  }
}
