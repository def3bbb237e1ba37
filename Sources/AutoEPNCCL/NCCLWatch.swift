import AutoEPSystem
import Glibc

/// A thread that looks after the exchanges of streams, which nobody waits for: at an exchange's deadline, or when NCCL
/// reports a failure, it ends the group, so that the stream goes on and the next call says why.
///
/// It destroys the communicator as well, once the transport is gone: that waits for the other ranks of the host.
final class NCCLWatch: Sendable {
  private struct State {
    var flights: [NCCLFlight] = []
    var isClosing = false
  }

  /// Microseconds between two looks.
  private static let interval: UInt32 = 10_000
  private let state = Monitor(State())
  private let group: NCCLGroup
  private let process = getpid()

  init(_ group: NCCLGroup) throws(EngineError) {
    self.group = group
    guard startDetachedThread({ [self] in run() }) else {
      throw EngineError(.outOfMemory, "the watch of an NCCL group: no thread for it")
    }
  }

  /// Looks after an exchange from now on.
  func add(_ flight: NCCLFlight) { state.change { $0.flights.append(flight) } }

  /// Ends the watch when the last exchange has landed.
  func close() {
    // A forked child has no such thread, and the communicator is the parent's.
    guard getpid() == process else { return }
    state.change { $0.isClosing = true }
  }

  private func run() {
    while waitForFlights() {
      look()
      usleep(Self.interval)
    }
    group.communicator.destroy()
  }

  /// Returns false when the transport is gone and nothing is under way.
  private func waitForFlights() -> Bool {
    state.wait { state in
      if !state.flights.isEmpty { return true }
      return state.isClosing ? false : nil
    }
  }

  private func look() {
    let flights = state.withLock { $0.flights }
    // They land in the order of their stream; those of several streams one look later.
    let landed = flights.prefix { hasLanded($0) }.count
    state.withLock { $0.flights.removeFirst(landed) }
    guard landed < flights.count, group.health.failure == nil else { return }
    let next = flights[landed]
    if next.deadline.hasPassed { group.fail(group.timedOut(next.step)) }
    _ = try? group.attempt(next.step) { () throws(EngineError) in
      try group.communicator.isReady()
    }
  }

  /// Whether the exchange has ended. A failed device never ends it, so its failure counts as the end.
  private func hasLanded(_ flight: NCCLFlight) -> Bool {
    (try? group.attempt(flight.step) { () throws(EngineError) in try flight.hasLanded() }) ?? true
  }
}
