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
    guard kernels.f32.treatsRowsAlike(), kernels.f64.treatsRowsAlike() else { return nil }
  }

  /// Its products as kernels.
  var kernels: KernelSet {
    let (rows, columns) = (Self.tileRows, Self.tileColumns)
    return unsafe KernelSet(
      name: "openblas",
      f32: TileKernel(rows: rows, columns: columns) { [sgemm] depth, a, b, sums, stride in
        unsafe sgemm(
          openblas_row_major, openblas_transpose, openblas_no_transpose,
          Int32(rows), Int32(columns), Int32(depth), 1, a, Int32(rows), b, Int32(columns), 1,
          sums, Int32(stride))
      },
      f64: TileKernel(rows: rows, columns: columns) { [dgemm] depth, a, b, sums, stride in
        unsafe dgemm(
          openblas_row_major, openblas_transpose, openblas_no_transpose,
          Int32(rows), Int32(columns), Int32(depth), 1, a, Int32(rows), b, Int32(columns), 1,
          sums, Int32(stride))
      })
  }
}

extension TileKernel {
  /// Whether equal rows of a tile get equal bits, for a full block of depths and for odd ones.
  fileprivate func treatsRowsAlike() -> Bool {
    [256, 77, 1].allSatisfy { depth in
      let factors = (0..<depth).map { R.tanh(R($0 % 7) - 3) }
      let a = factors.flatMap { Array(repeating: $0, count: rows) }
      let b = (0..<depth * columns).map { R.tanh(R($0 % 11) - 5) }
      let sums = product(depth: depth, a, b)
      return sums.indices.allSatisfy { sums[$0] == sums[$0 % columns] }
    }
  }

  private func product(depth: Int, _ a: [R], _ b: [R]) -> [R] {
    var (a, b) = (a, b)
    return [R](count: rows * columns) { sums in
      a.withElements { a in
        b.withElements { b in multiplyAdd(depth: depth, a, b, to: sums, stride: columns) }
      }
    }
  }
}
