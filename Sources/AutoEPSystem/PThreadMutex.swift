import Glibc

/// A pthread mutex at a stable address, destroyed with its owner.
@safe
struct PThreadMutex: ~Copyable, @unchecked Sendable {
  let address: UnsafeMutablePointer<pthread_mutex_t>

  init() {
    unsafe address = .allocate(capacity: 1)
    unsafe pthread_mutex_init(address, nil)
  }

  deinit {
    unsafe pthread_mutex_destroy(address)
    unsafe address.deallocate()
  }

  func lock() { unsafe pthread_mutex_lock(address) }
  func unlock() { unsafe pthread_mutex_unlock(address) }
}
