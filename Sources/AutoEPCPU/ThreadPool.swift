import Glibc
import Synchronization

/// Worker threads that share the independent items of one job at a time with the caller. An item's result does not
/// depend on the thread that runs it.
final class ThreadPool: Sendable {
  /// The threads that work on a job: the workers and the caller.
  let threadCount: Int

  private let leastShared: Double
  private let team: OpenMPTeam?
  private let board: JobBoard
  private let workers: [pthread_t]
  private let process = getpid()
  private let isBusy = Atomic(false)

  /// The fewest multiply-adds of a job that is shared: some tens of microseconds. Waking a thread costs more than a
  /// smaller job gains; on a busy machine the caller would wait for it, and it would spin for more work.
  static let leastShared = 1e6

  /// Uses the host's OpenMP threads, or starts `threadCount - 1` workers; fewer if the system refuses to create a
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
    // The first use of a type takes locks of the Swift runtime, and a fork would leave them locked in the child.
    board.waitForWorkers(workers.count)
    self.board = board
    self.workers = workers
    self.team = team
    self.leastShared = leastShared
    self.threadCount = team == nil ? workers.count + 1 : threadCount
  }

  deinit {
    // A forked child has none of the workers, and their thread ids may belong to its own threads.
    guard getpid() == process else { return }
    board.close()
    for worker in workers { pthread_join(worker, nil) }
  }

  /// Calls `body` from several threads with ranges of at least about `grain` items that together are `0..<count`. A
  /// job that is posted while another runs, by another host thread or inside a body, runs on its caller alone. `grain`
  /// is not evaluated for 0 items, because the sizes of empty tensors can overflow.
  func forEachRange(
    of count: Int, grain: @autoclosure () -> Int, _ body: @Sendable (Range<Int>) -> Void
  ) {
    guard count > 0 else { return }
    let grain = grain()
    guard threadCount > 1, count > grain, claim() else { return body(0..<count) }
    defer { isBusy.store(false, ordering: .releasing) }
    withoutActuallyEscaping(body) { body in
      // About four ranges per thread balance their unequal speeds.
      let rangeLength = max(grain, 1, (count - 1) / (threadCount * 4) + 1)
      run(Job(count: count, rangeLength: rangeLength, body: body))
    }
  }

  /// Calls `body` with each number below `count`, in ascending order, as threads become free. A job of few
  /// multiply-adds stays on this thread.
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
