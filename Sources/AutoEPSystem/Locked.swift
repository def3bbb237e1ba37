/// State that threads change under one lock.
///
/// The library has two kinds of shared state:
/// - `Locked`, if threads only read or change the state;
/// - `Monitor`, if threads also sleep until another thread has changed the state.
///
/// Both use a pthread mutex, which also works in a forked child. `Synchronization.Mutex` does not: it stores
/// the owner's thread id, which every thread caches, and a fork gives the child's thread another id. The first
/// contended lock in the child would then end the process.
@safe
package final class Locked<State>: @unchecked Sendable {
  @usableFromInline var state: State
  private let mutex = PThreadMutex()

  /// Takes ownership of the state.
  package init(_ state: sending State) { self.state = state }

  /// Runs `body` with the lock held. Inlinable, because the worker threads of a product get and return their
  /// scratch memory through it for every item.
  @inlinable
  package func withLock<Result, Failure: Error>(
    _ body: (inout State) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    lock()
    defer { unlock() }
    return try body(&state)
  }

  /// Acquires the lock until `unlock`. Held around a fork, it guarantees that the child gets consistent state and a
  /// lock that it can release.
  package func lock() { mutex.lock() }

  /// Releases the lock, on the thread that called `lock`.
  package func unlock() { mutex.unlock() }
}
