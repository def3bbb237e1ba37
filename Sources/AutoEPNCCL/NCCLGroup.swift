import AutoEPCore
import AutoEPSystem

/// One rank of a group, as the transport and its watch share it: the communicator, its deadline and its health.
final class NCCLGroup: Sendable {
  let rank: Int
  let size: Int
  /// How long an exchange waits for the other ranks, in seconds.
  let timeout: Double
  let communicator: NCCLCommunicator
  let health = GroupHealth()

  init(_ communicator: NCCLCommunicator, rank: Int, size: Int, timeout: Double) {
    self.communicator = communicator
    self.rank = rank
    self.size = size
    self.timeout = timeout
  }

  /// Throws if the group has failed.
  func check(step: String) throws(EngineError) { try health.check(step: step, rank: rank) }

  /// Returns when NCCL has done what it was last asked for. Only then is that in its stream.
  func settle(_ step: String, until deadline: Deadline) throws(EngineError) {
    // A communicator that another thread has closed has left the reason in the health.
    try wait(for: step, until: deadline) { () throws(EngineError) in
      try communicator.isReady() ?? false
    }
  }

  /// Asks until `hasHappened`, at most until the deadline. A failure ends the group.
  func wait(
    for step: String, until deadline: Deadline, _ hasHappened: () throws(EngineError) -> Bool
  ) throws(EngineError) {
    var pause = PollingPause()
    while true {
      try check(step: step)
      if try attempt(step, hasHappened) { return }
      if deadline.hasPassed { throw fail(timedOut(step)) }
      pause.take()
    }
  }

  /// Runs a part of a step; ends the group if it fails.
  func attempt<Result>(
    _ step: String, _ body: () throws(EngineError) -> Result
  ) throws(EngineError) -> Result {
    do throws(EngineError) {
      return try body()
    } catch {
      throw fail(
        EngineError(
          error.kind, "\(step): rank \(rank) of \(size): \(error.message)", step: step))
    }
  }

  /// Ends the group: what is under way stops, and every later call finds the first failure.
  @discardableResult
  func fail(_ failure: EngineError) -> EngineError {
    health.record(failure)
    communicator.abort()
    return failure
  }

  /// NCCL does not tell which rank is missing; of two it is the other one.
  func timedOut(_ step: String) -> EngineError {
    .missingRanks(
      size == 2 ? [1 - rank] : [], step: step, rank: rank, size: size, seconds: timeout)
  }
}
