import AutoEPSystem
import Glibc

/// State that threads change under one lock, and wait on.
@safe
final class Monitor<State>: @unchecked Sendable {
  private var state: State
  private let mutex: UnsafeMutablePointer<pthread_mutex_t>
  private let changed: UnsafeMutablePointer<pthread_cond_t>

  init(_ state: sending State) {
    self.state = state
    unsafe mutex = .allocate(capacity: 1)
    unsafe changed = .allocate(capacity: 1)
    unsafe pthread_mutex_init(mutex, nil)
    // The monotonic clock: deadlines must not move when someone sets the time of day.
    var attributes = pthread_condattr_t()
    unsafe pthread_condattr_init(&attributes)
    unsafe pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
    unsafe pthread_cond_init(changed, &attributes)
    unsafe pthread_condattr_destroy(&attributes)
  }

  deinit {
    unsafe pthread_cond_destroy(changed)
    unsafe pthread_mutex_destroy(mutex)
    unsafe changed.deallocate()
    unsafe mutex.deallocate()
  }

  /// Changes the state and wakes those who wait.
  func change<Result, Failure: Error>(
    _ body: (inout State) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    unsafe pthread_mutex_lock(mutex)
    defer {
      unsafe pthread_cond_broadcast(changed)
      unsafe pthread_mutex_unlock(mutex)
    }
    return try body(&state)
  }

  /// Asks `body` after each change until it gives a result; from the deadline on it is told that
  /// it is late, and asked until it throws or gives one.
  func wait<Result, Failure: Error>(
    seconds: Double, _ body: (inout State, _ late: Bool) throws(Failure) -> Result?
  ) throws(Failure) -> Result {
    var deadline = monotonicTime(after: seconds)
    var late = false
    unsafe pthread_mutex_lock(mutex)
    defer {
      unsafe pthread_cond_broadcast(changed)
      unsafe pthread_mutex_unlock(mutex)
    }
    while true {
      if let result = try body(&state, late) { return result }
      late = unsafe pthread_cond_timedwait(changed, mutex, &deadline) == ETIMEDOUT
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
