import AutoEPSystem
import Glibc

/// Runs `body` for each rank in a thread of its own. Returns the results in rank order, or throws the first error
/// after all threads have ended.
func runRanks<Rank: Sendable, Result: Sendable>(
  _ ranks: [Rank], _ body: @escaping @Sendable (Rank) throws -> Result
) throws -> [Result] {
  let results = Locked<[Swift.Result<Result, any Error>?]>(
    Array(repeating: nil, count: ranks.count))
  let threads = ranks.enumerated().map { index, rank in
    startThread {
      let result = Swift.Result { try body(rank) }
      results.withLock { $0[index] = result }
    }
  }
  for thread in threads { pthread_join(thread, nil) }
  return try results.withLock { $0 }.enumerated().map { index, result in
    guard let result else {
      throw BrokenLaw(description: "the thread of rank \(index) could not be started")
    }
    return try result.get()
  }
}

private func startThread(_ body: @escaping @Sendable () -> Void) -> pthread_t {
  var thread = pthread_t()
  let job = Unmanaged.passRetained(Job(body: body))
  let code = pthread_create(
    &thread, nil,
    { argument in
      guard let argument else { return nil }
      Unmanaged<Job>.fromOpaque(argument).takeRetainedValue().body()
      return nil
    }, job.toOpaque())
  precondition(code == 0, "no thread for a rank")
  return thread
}

private final class Job {
  let body: @Sendable () -> Void
  init(body: @escaping @Sendable () -> Void) { self.body = body }
}
