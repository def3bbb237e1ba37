import Glibc

/// State that threads change under one lock.
///
/// Unlike `Mutex` it serves a forked child: that one knows a thread by its number, which it remembers, and
/// a fork gives the thread another.
@safe
package final class Locked<State>: @unchecked Sendable {
  private var state: State
  private let mutex: UnsafeMutablePointer<pthread_mutex_t>

  /// Takes over the state.
  package init(_ state: sending State) {
    self.state = state
    unsafe mutex = .allocate(capacity: 1)
    unsafe pthread_mutex_init(mutex, nil)
  }

  deinit {
    unsafe pthread_mutex_destroy(mutex)
    unsafe mutex.deallocate()
  }

  /// Runs `body` while no other thread has the state.
  package func withLock<Result>(_ body: (inout State) -> Result) -> Result {
    lock()
    defer { unlock() }
    return body(&state)
  }
  /// Takes the lock until `unlock`. Who does so around a fork leaves the child a whole state and a free lock.
  package func lock() { unsafe pthread_mutex_lock(mutex) }

  /// Undoes `lock`, in the thread that called it.
  package func unlock() { unsafe pthread_mutex_unlock(mutex) }
}
