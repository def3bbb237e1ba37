import AutoEPCore
import Foundation
import Synchronization

/// Runs `body` for each rank in a thread of its own; throws the first error when all have ended.
public func runRanks(
  _ ranks: [any Transport], _ body: @escaping @Sendable (any Transport) throws -> Void
) throws {
  let failure = SharedFailure()
  let ended = DispatchGroup()
  for rank in ranks {
    ended.enter()
    Thread.detachNewThread {
      do { try body(rank) } catch { failure.note(error) }
      ended.leave()
    }
  }
  ended.wait()
  try failure.rethrow()
}

private final class SharedFailure: Sendable {
  private let first = Mutex<(any Error)?>(nil)

  func note(_ error: any Error) {
    first.withLock { $0 = $0 ?? error }
  }

  func rethrow() throws {
    if let error = first.withLock({ $0 }) { throw error }
  }
}
