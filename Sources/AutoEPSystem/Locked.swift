/// State that threads change under one lock.
///
/// The library has two kinds of shared state:
/// - `Locked`, where a thread only reads or changes the state and goes on;
/// - `Monitor`, where a thread also sleeps until another one has changed the state.
///
/// Both use a pthread mutex, which a forked child can use as well. `Synchronization.Mutex` is not
/// used here: it stores the owner's thread id, every thread remembers its own, and a fork gives the
/// thread of the child another id. The first contended lock in the child would then end the process.
@safe
package final class Locked<State>: @unchecked Sendable {
  @usableFromInline var state: State
  private let mutex = PThreadMutex()

  /// Takes over the state.
  package init(_ state: sending State) { self.state = state }

  /// Runs `body` while no other thread has the state. Inlinable, because the threads of a product take and
  /// return their memory through it, item by item.
  @inlinable
  package func withLock<Result, Failure: Error>(
    _ body: (inout State) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    lock()
    defer { unlock() }
    return try body(&state)
  }

  /// Takes the lock until `unlock`. A thread that does so around a fork leaves the child the state
  /// between two changes, and a lock that is free.
  package func lock() { mutex.lock() }

  /// Releases the lock, in the thread that called `lock`.
  package func unlock() { mutex.unlock() }
}
