import Glibc

/// Where workers wait for the next job. It outlives the pool until the last worker has left.
@safe
final class JobBoard: @unchecked Sendable {
  // All below is guarded by `mutex`.
  private var job: Job?
  private var jobNumber = 0
  private var activeWorkers = 0
  private var isClosed = false

  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private let jobPosted = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
  private let workerDone = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

  init() {
    unsafe pthread_mutex_init(mutex, nil)
    unsafe pthread_cond_init(jobPosted, nil)
    unsafe pthread_cond_init(workerDone, nil)
  }

  deinit {
    unsafe pthread_cond_destroy(workerDone)
    unsafe pthread_cond_destroy(jobPosted)
    unsafe pthread_mutex_destroy(mutex)
    unsafe workerDone.deallocate()
    unsafe jobPosted.deallocate()
    unsafe mutex.deallocate()
  }

  /// Does the job together with the workers that come; returns when all of it is done. Workers that
  /// never come, as in a forked child, are not waited for.
  func run(_ job: Job) {
    locked {
      self.job = job
      jobNumber += 1
      unsafe pthread_cond_broadcast(jobPosted)
    }
    job.takePart()
    locked {
      self.job = nil
      while activeWorkers > 0 { unsafe pthread_cond_wait(workerDone, mutex) }
      job.finish()
    }
  }

  /// A worker's life.
  func work() {
    var lastJobNumber = 0
    while let job = join(after: &lastJobNumber) {
      job.takePart()
      leave()
    }
  }

  /// Sends the workers home.
  func close() {
    locked {
      isClosed = true
      unsafe pthread_cond_broadcast(jobPosted)
    }
  }

  private func join(after lastJobNumber: inout Int) -> Job? {
    locked {
      while !isClosed {
        if let job, jobNumber != lastJobNumber {
          lastJobNumber = jobNumber
          activeWorkers += 1
          return job
        }
        unsafe pthread_cond_wait(jobPosted, mutex)
      }
      return nil
    }
  }

  private func leave() {
    locked {
      activeWorkers -= 1
      if activeWorkers == 0 { unsafe pthread_cond_signal(workerDone) }
    }
  }

  private func locked<Result>(_ body: () -> Result) -> Result {
    unsafe pthread_mutex_lock(mutex)
    defer { unsafe pthread_mutex_unlock(mutex) }
    return body()
  }
}
