import AutoEPSystem
import CMicroKernels

/// The threads of the OpenMP runtime that the process has already, if it is one with GCC's interface.
///
/// PyTorch computes on them, and after each of its parallel regions they spin for milliseconds on cores
/// that threads of our own would then have to share.
@safe
struct OpenMPTeam: @unchecked Sendable {
  private typealias Parallel =
    @convention(c) (
      @convention(c) (UnsafeMutableRawPointer?) -> Void, UnsafeMutableRawPointer?, UInt32, UInt32
    ) -> Void

  private let parallel: Parallel

  /// Nil where no runtime is loaded, and in a forked child, which the runtime does not survive.
  init?() {
    guard is_forked() == 0,
      let parallel: Parallel = unsafe try? DynamicLibrary.process.function("GOMP_parallel")
    else { return nil }
    unsafe self.parallel = unsafe parallel
  }

  /// Runs `body` on as many threads, this one among them, or fewer; returns when all are done. After a
  /// fork it runs on this one alone.
  func run(threadCount: Int, _ body: @Sendable () -> Void) {
    guard is_forked() == 0 else { return body() }
    withoutActuallyEscaping(body) { body in
      let work = Work(body)
      withExtendedLifetime(work) {
        unsafe parallel(
          { unsafe Unmanaged<Work>.fromOpaque($0.unsafelyUnwrapped).takeUnretainedValue().body() },
          Unmanaged.passUnretained(work).toOpaque(), UInt32(threadCount), 0)
      }
    }
  }

  private final class Work {
    let body: @Sendable () -> Void

    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
  }
}
