import Glibc

/// State that threads change under one lock, and wait on; `Locked` says when to use which.
///
/// Waiting threads sleep on a numbered condition of the monitor. Most monitors have one; with more, a change
/// wakes only the threads that it concerns.
@safe
package final class Monitor<State>: @unchecked Sendable {
  private var state: State
  private let mutex = PThreadMutex()
  private let conditions: UnsafeMutablePointer<pthread_cond_t>
  private let conditionCount: Int

  /// Takes ownership of the state.
  package init(_ state: sending State, conditions conditionCount: Int = 1) {
    self.state = state
    self.conditionCount = conditionCount
    unsafe conditions = .allocate(capacity: conditionCount)
    // The monotonic clock: setting the system time must not move deadlines.
    var attributes = pthread_condattr_t()
    unsafe pthread_condattr_init(&attributes)
    unsafe pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
    for condition in 0..<conditionCount {
      unsafe pthread_cond_init(conditions + condition, &attributes)
    }
    unsafe pthread_condattr_destroy(&attributes)
  }

  deinit {
    for condition in 0..<conditionCount { unsafe pthread_cond_destroy(conditions + condition) }
    unsafe conditions.deallocate()
  }

  /// Runs `body` with the lock held. Wakes no thread.
  package func withLock<Result, Failure: Error>(
    _ body: (inout State) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    mutex.lock()
    defer { mutex.unlock() }
    return try body(&state)
  }

  /// Wakes the threads that wait on a condition.
  package func wake(_ condition: Int = 0) { unsafe pthread_cond_broadcast(conditions + condition) }

  /// Changes the state and wakes the threads that wait on a condition.
  package func change<Result, Failure: Error>(
    waking condition: Int = 0, _ body: (inout State) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    mutex.lock()
    defer {
      wake(condition)
      mutex.unlock()
    }
    return try body(&state)
  }

  /// Calls `body` after each change until it returns a result.
  package func wait<Result, Failure: Error>(
    on condition: Int = 0, _ body: (inout State) throws(Failure) -> Result?
  ) throws(Failure) -> Result {
    mutex.lock()
    defer { mutex.unlock() }
    while true {
      if let result = try body(&state) { return result }
      unsafe pthread_cond_wait(conditions + condition, mutex.address)
    }
  }

  /// Calls `body` after each change until it returns a result or throws. Once `seconds` have passed, `body`'s
  /// `late` is true. Changes that `body` makes wake the other threads.
  package func wait<Result, Failure: Error>(
    on condition: Int = 0, seconds: Double,
    _ body: (inout State, _ late: Bool) throws(Failure) -> Result?
  ) throws(Failure) -> Result {
    var deadline = monotonicTime(after: seconds)
    var late = false
    mutex.lock()
    defer {
      wake(condition)
      mutex.unlock()
    }
    while true {
      if let result = try body(&state, late) { return result }
      late =
        unsafe pthread_cond_timedwait(conditions + condition, mutex.address, &deadline) == ETIMEDOUT
    }
  }
}

private func monotonicTime(after seconds: Double) -> timespec {
  var time = timespec()
  unsafe clock_gettime(CLOCK_MONOTONIC, &time)
  let nanoseconds = time.tv_nsec + Int((seconds * 1e9).truncatingRemainder(dividingBy: 1e9))
  time.tv_sec += Int(seconds) + nanoseconds / 1_000_000_000
  time.tv_nsec = nanoseconds % 1_000_000_000
  return time
}
