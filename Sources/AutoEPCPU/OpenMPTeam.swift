import AutoEPSystem
import CMicroKernels

/// The threads of the OpenMP runtime that the process has already loaded, if it has GCC's interface.
///
/// PyTorch computes on these threads, and they spin for milliseconds after each of its parallel regions, on cores
/// that threads of our own would have to share.
@safe
struct OpenMPTeam: @unchecked Sendable {
  private typealias Parallel =
    @convention(c) (
      @convention(c) (UnsafeMutableRawPointer?) -> Void, UnsafeMutableRawPointer?, UInt32, UInt32
    ) -> Void

  private let parallel: Parallel

  /// Nil if no runtime is loaded, and in a forked child, in which the runtime does not work.
  init?() {
    guard is_forked() == 0,
      let parallel: Parallel = unsafe try? DynamicLibrary.process.function("GOMP_parallel")
    else { return nil }
    unsafe self.parallel = unsafe parallel
  }

  /// Runs `body` on up to `threadCount` threads, including this one, and returns when all are done. After a
  /// fork it runs on this thread only.
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
