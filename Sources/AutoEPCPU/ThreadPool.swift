import Glibc
import Synchronization

/// Worker threads that share the independent items of one job at a time with the caller. Which
/// thread does an item never changes its result.
final class ThreadPool: Sendable {
  /// Threads that work on a job: the workers and the caller.
  let threadCount: Int

  private let leastShared: Double
  private let team: OpenMPTeam?
  private let board: JobBoard
  private let workers: [pthread_t]
  private let process = getpid()
  private let isBusy = Atomic(false)

  /// Multiply-adds of a job below which waking a thread costs more than it brings: some tens of microseconds.
  /// On a busy machine the caller would wait for the other threads much longer, and each of them
  /// would go on spinning for more work.
  static let leastShared = 1e6

  /// Uses the host's OpenMP threads, or starts `threadCount - 1` workers; fewer where the system refuses a
  /// thread. Jobs of fewer multiply-adds than `leastShared` stay on their caller's thread.
  init(
    threadCount: Int, leastShared: Double = ThreadPool.leastShared,
    team: OpenMPTeam? = OpenMPTeam()
  ) {
    let board = JobBoard()
    var workers: [pthread_t] = []
    while team == nil, workers.count + 1 < threadCount, let worker = Self.startWorker(of: board) {
      workers.append(worker)
    }
    // A thread's first use of a type takes locks of Swift's, and a fork leaves them locked in the child.
    board.waitForWorkers(workers.count)
    self.board = board
    self.workers = workers
    self.team = team
    self.leastShared = leastShared
    self.threadCount = team == nil ? workers.count + 1 : threadCount
  }

  deinit {
    // A forked child has none of the workers, and its own threads may have got their numbers.
    guard getpid() == process else { return }
    board.close()
    for worker in workers { pthread_join(worker, nil) }
  }

  /// Calls `body` with ranges that together are `0..<count`, each of about `grain` items or more,
  /// from several threads at once. A job that comes while another runs, from another host thread or
  /// from inside a body, runs on its caller alone. `grain` is not evaluated where there is no item:
  /// the sizes of empty tensors may be too large to reckon with.
  func forEachRange(
    of count: Int, grain: @autoclosure () -> Int, _ body: @Sendable (Range<Int>) -> Void
  ) {
    guard count > 0 else { return }
    let grain = grain()
    guard threadCount > 1, count > grain, claim() else { return body(0..<count) }
    defer { isBusy.store(false, ordering: .releasing) }
    withoutActuallyEscaping(body) { body in
      // About four ranges a thread even out their unequal speeds.
      let rangeLength = max(grain, 1, (count - 1) / (threadCount * 4) + 1)
      run(Job(count: count, rangeLength: rangeLength, body: body))
    }
  }

  /// Calls `body` with each number below `count`, the lowest first, as threads become free; on this
  /// thread alone where all of them together take few multiply-adds.
  func forEachItem(
    of count: Int, multiplyAdds: Double, _ body: @Sendable (Int) -> Void
  ) {
    guard count > 1, threadCount > 1, multiplyAdds >= leastShared, claim() else {
      return (0..<count).forEach(body)
    }
    defer { isBusy.store(false, ordering: .releasing) }
    withoutActuallyEscaping(body) { body in
      run(Job(count: count, rangeLength: 1) { $0.forEach(body) })
    }
  }

  private func run(_ job: Job) {
    guard let team else { return board.run(job) }
    team.run(threadCount: threadCount) { job.takePart() }
    job.finish()
  }

  private func claim() -> Bool {
    isBusy.compareExchange(expected: false, desired: true, ordering: .acquiring).exchanged
  }

  private static func startWorker(of board: JobBoard) -> pthread_t? {
    var thread = pthread_t()
    let context = unsafe Unmanaged.passRetained(board)
    let status = unsafe pthread_create(
      &thread, nil,
      { context in
        guard let context = unsafe context else { return nil }
        unsafe Unmanaged<JobBoard>.fromOpaque(context).takeRetainedValue().work()
        return nil
      }, context.toOpaque())
    if status == 0 { return thread }
    unsafe context.release()
    return nil
  }
}
