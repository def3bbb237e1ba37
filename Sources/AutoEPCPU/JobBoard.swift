import AutoEPSystem

/// Where workers wait for the next job. It outlives the pool until the last worker has left.
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
    case goHome
  }

  // The conditions of the monitor.
  private let jobPosted = 0
  private let workersChanged = 1
  private let board = Monitor(State(), conditions: 2)

  /// Does the job together with the workers that come; returns when all of it is done. Workers that
  /// never come, as in a forked child, are not waited for.
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

  /// Returns when `count` workers have arrived.
  func waitForWorkers(_ count: Int) {
    board.wait(on: workersChanged) { $0.arrivedWorkers == count ? () : nil }
  }

  /// A worker's life.
  func work() {
    var lastJobNumber: Int?
    while case .takePart(let job) = nextOrder(after: &lastJobNumber) {
      job.takePart()
      leave()
    }
  }

  /// Sends the workers home.
  func close() {
    board.change(waking: jobPosted) { $0.isClosed = true }
  }

  /// Waits for a job after the worker's last one. A worker arrives here, where no type is left to be built.
  private func nextOrder(after lastJobNumber: inout Int?) -> Order {
    board.wait(on: jobPosted) { board in
      if lastJobNumber == nil {
        lastJobNumber = board.jobNumber
        board.arrivedWorkers += 1
        self.board.wake(workersChanged)
      }
      if board.isClosed { return .goHome }
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
