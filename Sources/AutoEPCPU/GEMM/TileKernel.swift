/// The innermost product: adds `a` times `b` to a block of sums of fixed size.
///
/// Sendable, for the functions given keep no state.
@safe
struct TileKernel<R: Real>: @unchecked Sendable {
  /// Rows of the block; the rows of one column of `a` follow each other.
  let rows: Int
  /// Columns of the block; the columns of one row of `b` follow each other.
  let columns: Int
  private let function: Function

  /// depth, a [depth, rows], b [depth, columns], sums [rows, columns], distance of its rows.
  typealias Function =
    (
      Int, UnsafePointer<R>?, UnsafePointer<R>?, UnsafeMutablePointer<R>?, Int
    ) -> Void

  init(rows: Int, columns: Int, function: @escaping Function) {
    self.rows = rows
    self.columns = columns
    unsafe self.function = unsafe function
  }

  /// Adds the product of two packed panels to sums whose rows are `stride` apart.
  func multiplyAdd(
    depth: Int, _ a: Elements<R>, _ b: Elements<R>, to sums: Elements<R>, stride: Int
  ) {
    assert(a.count >= depth * rows && b.count >= depth * columns)
    assert(sums.count >= (rows - 1) * stride + columns)
    unsafe function(depth, a.pointer, b.pointer, sums.pointer, stride)
  }
}
