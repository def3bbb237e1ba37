import AutoEPCore
import Glibc
import Synchronization

/// Runs `body` for each rank in a thread of its own. Throws the first error after all threads have ended and released
/// their objects.
public func runRanks(
  _ ranks: [any Transport], _ body: @escaping @Sendable (any Transport) throws -> Void
) throws {
  let failure = SharedFailure()
  let threads = ranks.map { rank in
    startThread {
      do { try body(rank) } catch { failure.note(error) }
    }
  }
  for thread in threads { pthread_join(thread, nil) }
  try failure.rethrow()
}

private func startThread(_ body: @escaping @Sendable () -> Void) -> pthread_t {
  var thread = pthread_t()
  let job = Unmanaged.passRetained(Job(body: body))
  pthread_create(
    &thread, nil,
    { argument in
      guard let argument else { return nil }
      Unmanaged<Job>.fromOpaque(argument).takeRetainedValue().body()
      return nil
    }, job.toOpaque())
  return thread
}

private final class Job {
  let body: @Sendable () -> Void
  init(body: @escaping @Sendable () -> Void) { self.body = body }
}

private final class SharedFailure: Sendable {
  private let first = Mutex<(any Error)?>(nil)

  func note(_ error: any Error) {
    first.withLock { $0 = $0 ?? error }
  }

  func rethrow() throws {
    if let error = first.withLock({ $0 }) { throw error }
  }
}
