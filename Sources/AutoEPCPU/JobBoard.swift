import AutoEPSystem

/// The board on which workers wait for jobs. It outlives the pool until the last worker has exited.
final class JobBoard: Sendable {
  private struct State {
    var job: Job?
    var jobNumber = 0
    var arrivedWorkers = 0
    var activeWorkers = 0
    var isClosed = false
  }

  private enum Order {
    case takePart(Job)
    case exit
  }

  // The condition numbers of the monitor.
  private let jobPosted = 0
  private let workersChanged = 1
  private let board = Monitor(State(), conditions: 2)

  /// Runs the job on this thread and all workers that join, and returns when it is done. Does not wait for workers
  /// that never join, such as those missing in a forked child.
  func run(_ job: Job) {
    board.change(waking: jobPosted) { board in
      board.job = job
      board.jobNumber += 1
    }
    job.takePart()
    board.wait(on: workersChanged) { board -> Void? in
      board.job = nil
      return board.activeWorkers == 0 ? () : nil
    }
    job.finish()
  }

  /// Returns when `count` workers are waiting.
  func waitForWorkers(_ count: Int) {
    board.wait(on: workersChanged) { $0.arrivedWorkers == count ? () : nil }
  }

  /// The loop of a worker thread.
  func work() {
    var lastJobNumber: Int?
    while case .takePart(let job) = nextOrder(after: &lastJobNumber) {
      job.takePart()
      leave()
    }
  }

  /// Makes the workers exit.
  func close() {
    board.change(waking: jobPosted) { $0.isClosed = true }
  }

  /// Waits for a job newer than the worker's last one. At the first wait the worker counts as ready: by then it has
  /// instantiated every type that it needs.
  private func nextOrder(after lastJobNumber: inout Int?) -> Order {
    board.wait(on: jobPosted) { board in
      if lastJobNumber == nil {
        lastJobNumber = board.jobNumber
        board.arrivedWorkers += 1
        self.board.wake(workersChanged)
      }
      if board.isClosed { return .exit }
      guard let job = board.job, board.jobNumber != lastJobNumber else { return nil }
      lastJobNumber = board.jobNumber
      board.activeWorkers += 1
      return .takePart(job)
    }
  }

  private func leave() {
    let isLast = board.withLock { board in
      board.activeWorkers -= 1
      return board.activeWorkers == 0
    }
    if isLast { board.wake(workersChanged) }
  }
}
