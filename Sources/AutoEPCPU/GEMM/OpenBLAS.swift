import AutoEPSystem
import CMicroKernels
import COpenBLAS

/// OpenBLAS as a kernel of large tiles, for processors without a kernel of ours. Tiles are padded with
/// zeros to one shape, so that a row's result does not depend on the number of rows beside it.
@safe
struct OpenBLAS {
  private static let tileRows = 96
  private static let tileColumns = 192

  private let sgemm: openblas_sgemm
  private let dgemm: openblas_dgemm

  /// Loads the library and limits it to one thread. Nil if it is not installed, or if its products depend on a row's
  /// position in a tile, as with its Haswell kernel.
  init?() {
    let setNumThreads: openblas_set_num_threads
    do throws(LoaderError) {
      let library = try DynamicLibrary(opening: "libopenblas.so.0")
      unsafe setNumThreads = try library.function("openblas_set_num_threads")
      unsafe sgemm = try library.function("cblas_sgemm")
      unsafe dgemm = try library.function("cblas_dgemm")
    } catch {
      return nil
    }
    setNumThreads(1)
    guard let kernels, kernels.f32.treatsRowsAlike(), kernels.f64.treatsRowsAlike() else {
      return nil
    }
  }

  /// Its products as kernels that use the packing of the portable kernel.
  var kernels: KernelSet? {
    guard let plain = unsafe kernel_set_named("portable")?.pointee else { return nil }
    return unsafe KernelSet(
      name: "openblas", f32: floats(plain.f32.pointee), f64: doubles(plain.f64.pointee),
      bf16: floats(plain.bf16.pointee))
  }

  private func floats(_ plain: matrix_kernel) -> MatrixKernel<Float> {
    unsafe MatrixKernel(packing: plain, rows: Self.tileRows, columns: Self.tileColumns) {
      [sgemm] product, _ in
      unsafe forEachTile(of: product.pointee, of: Float.self) { x, rows, panel, columns, sums in
        unsafe sgemm(
          openblas_row_major, openblas_no_transpose, openblas_no_transpose, Int32(Self.tileRows),
          Int32(columns), Int32(x.depth), 1, rows, Int32(x.depth), panel, Int32(columns),
          x.adds == 0 ? 0 : 1, sums, Int32(x.stride))
      }
    }
  }

  private func doubles(_ plain: matrix_kernel) -> MatrixKernel<Double> {
    unsafe MatrixKernel(packing: plain, rows: Self.tileRows, columns: Self.tileColumns) {
      [dgemm] product, _ in
      unsafe forEachTile(of: product.pointee, of: Double.self) { x, rows, panel, columns, sums in
        unsafe dgemm(
          openblas_row_major, openblas_no_transpose, openblas_no_transpose, Int32(Self.tileRows),
          Int32(columns), Int32(x.depth), 1, rows, Int32(x.depth), panel, Int32(columns),
          x.adds == 0 ? 0 : 1, sums, Int32(x.stride))
      }
    }
  }

  /// Calls `body` for each tile with its rows, copied to the layout that OpenBLAS reads, its panel, columns and sums.
  private func forEachTile<R: Real>(
    of x: matrix_product, of _: R.Type,
    _ body: (matrix_product, [R], UnsafePointer<R>, Int, UnsafeMutablePointer<R>) -> Void
  ) {
    guard let values = unsafe x.b?.assumingMemoryBound(to: R.self),
      let sums = unsafe x.sums?.assumingMemoryBound(to: R.self)
    else { return }
    for first in stride(from: 0, to: unsafe x.rows, by: Self.tileRows) {
      let rows = unsafe contiguous(x, from: first, as: R.self)
      for columns in unsafe (0..<x.columns).chunks(of: Self.tileColumns) {
        unsafe body(
          x, rows,
          values + columns.lowerBound * x.panel_depth + columns.count * x.panel_first,
          columns.count,
          sums + first * x.stride + columns.lowerBound)
      }
    }
  }

  /// The rows of a tile, copied to consecutive memory.
  private func contiguous<R: Real>(_ x: matrix_product, from first: Int, as _: R.Type) -> [R] {
    let apart = unsafe max(x.step, 1)
    return (first..<first + Self.tileRows).flatMap { row in
      let values = unsafe x.a?[row]?.assumingMemoryBound(to: R.self)
      return unsafe (x.first..<x.first + x.depth).map { unsafe values?[$0 * apart] ?? 0 }
    }
  }
}

extension MatrixKernel {
  /// Whether equal rows of a tile give equal bits, for a full depth block and for an odd depth.
  fileprivate func treatsRowsAlike() -> Bool {
    [256, 77, 1].allSatisfy { depth in
      let bench = Workbench()
      let row = bench.elements(Wide.self, for: .hidden, count: depth)
      for index in 0..<depth { row[index] = Wide.tanh(Wide(index % 7) - 3) }
      let addresses = unsafe RowAddresses(count: rows, on: bench, for: .rowAddresses) { _ in
        unsafe UnsafeRawPointer(row.pointer)
      }
      let values = bench.elements(Wide.self, for: .panels, count: depth * columns)
      for index in 0..<values.count { values[index] = Wide.tanh(Wide(index % 11) - 5) }
      guard let memory = unsafe values.pointer else { return false }
      let sums = bench.elements(Wide.self, for: .sums, count: rows * columns)
      var lookahead = lookahead(rows: rows, columns: columns, depth: depth, on: bench)
      unsafe multiply(
        addresses, by: Panels(UnsafeMutableRawPointer(memory), columns: columns, depth: depth),
        depth: depth,
        into: sums, lookahead: &lookahead)
      return (0..<sums.count).allSatisfy { sums[$0] == sums[$0 % columns] }
    }
  }
}
