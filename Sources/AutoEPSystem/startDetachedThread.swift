import Glibc

/// Runs `body` in a thread of its own, which nobody waits for. Returns false where the system gives no thread.
package func startDetachedThread(_ body: @escaping @Sendable () -> Void) -> Bool {
  var thread = pthread_t()
  let job = unsafe Unmanaged.passRetained(ThreadJob(body))
  let status = unsafe pthread_create(
    &thread, nil,
    { argument in
      if let argument = unsafe argument {
        unsafe Unmanaged<ThreadJob>.fromOpaque(argument).takeRetainedValue().body()
      }
      return nil
    }, job.toOpaque())
  guard status == 0 else {
    unsafe job.release()
    return false
  }
  pthread_detach(thread)
  return true
}

private final class ThreadJob: Sendable {
  let body: @Sendable () -> Void
  init(_ body: @escaping @Sendable () -> Void) { self.body = body }
}
