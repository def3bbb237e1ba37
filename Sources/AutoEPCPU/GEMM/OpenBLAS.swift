import CMicroKernels
import COpenBLAS
import Glibc

/// OpenBLAS as a kernel of large tiles, for processors without one of ours. Tiles are padded with
/// zeros to one shape, so that a row's result does not depend on how many stand beside it.
@safe
struct OpenBLAS {
  private static let tileRows = 96
  private static let tileColumns = 192

  private let sgemm: openblas_sgemm
  private let dgemm: openblas_dgemm

  /// Loads the library, which then uses no threads of its own. Nil where the machine has none, and
  /// where its products depend on where a row stands in a tile, as those of its Haswell kernel do.
  init?() {
    guard let library = unsafe dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL),
      let setNumThreads = unsafe dlsym(library, "openblas_set_num_threads"),
      let sgemm = unsafe dlsym(library, "cblas_sgemm"),
      let dgemm = unsafe dlsym(library, "cblas_dgemm")
    else { return nil }
    unsafe unsafeBitCast(setNumThreads, to: openblas_set_num_threads.self)(1)
    unsafe self.sgemm = unsafe unsafeBitCast(sgemm, to: openblas_sgemm.self)
    unsafe self.dgemm = unsafe unsafeBitCast(dgemm, to: openblas_dgemm.self)
    guard let kernels, kernels.f32.treatsRowsAlike(), kernels.f64.treatsRowsAlike() else {
      return nil
    }
  }

  /// Its products as kernels, on what the plain kernels pack.
  var kernels: KernelSet? {
    guard let plain = unsafe kernel_set_named("portable")?.pointee else { return nil }
    return unsafe KernelSet(
      name: "openblas", f32: floats(plain.f32.pointee), f64: doubles(plain.f64.pointee),
      bf16: floats(plain.bf16.pointee))
  }

  private func floats(_ plain: matrix_kernel) -> MatrixKernel<Float> {
    unsafe MatrixKernel(packing: plain, rows: Self.tileRows, columns: Self.tileColumns) {
      [sgemm] depth, a, first, step, b, columns, sums, stride, adds, _ in
      let rows = unsafe contiguous(a, first, step, depth: depth, as: Float.self)
      unsafe sgemm(
        openblas_row_major, openblas_no_transpose, openblas_no_transpose, Int32(Self.tileRows),
        Int32(columns), Int32(depth), 1, rows, Int32(depth),
        b?.assumingMemoryBound(to: Float.self), Int32(columns),
        adds == 0 ? 0 : 1, sums?.assumingMemoryBound(to: Float.self), Int32(stride))
    }
  }

  private func doubles(_ plain: matrix_kernel) -> MatrixKernel<Double> {
    unsafe MatrixKernel(packing: plain, rows: Self.tileRows, columns: Self.tileColumns) {
      [dgemm] depth, a, first, step, b, columns, sums, stride, adds, _ in
      let rows = unsafe contiguous(a, first, step, depth: depth, as: Double.self)
      unsafe dgemm(
        openblas_row_major, openblas_no_transpose, openblas_no_transpose, Int32(Self.tileRows),
        Int32(columns), Int32(depth), 1, rows, Int32(depth),
        b?.assumingMemoryBound(to: Double.self), Int32(columns),
        adds == 0 ? 0 : 1, sums?.assumingMemoryBound(to: Double.self), Int32(stride))
    }
  }

  /// The rows of a tile one after the other, as OpenBLAS reads them.
  private func contiguous<R: Real>(
    _ addresses: UnsafePointer<UnsafeRawPointer?>?, _ first: Int, _ step: Int, depth: Int,
    as _: R.Type
  ) -> [R] {
    (0..<Self.tileRows).flatMap { row in
      let values = unsafe addresses?[step == 0 ? row : 0]?.assumingMemoryBound(to: R.self)
      return (first..<first + depth).map { unsafe values?[step == 0 ? $0 : $0 * step + row] ?? 0 }
    }
  }
}

extension MatrixKernel {
  /// Whether equal rows of a tile get equal bits, for a full block of depths and for odd ones.
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
      var lookahead = lookahead(rows: rows, depth: depth, products: 1, on: bench, [])
      unsafe multiply(
        addresses, by: Panel(UnsafeMutableRawPointer(memory), columns: columns), depth: depth,
        into: sums, lookahead: &lookahead)
      return (0..<sums.count).allSatisfy { sums[$0] == sums[$0 % columns] }
    }
  }
}
