import Synchronization

/// The workbenches at which no thread works.
final class WorkbenchStore: Sendable {
  private let idle = Mutex(IdleWorkbenches())

  /// Lends a workbench, the one used last if any: its memory is warm.
  func withWorkbench<Result>(_ body: (Workbench) -> Result) -> Result {
    let bench = idle.withLock { $0.take() }
    defer { idle.withLock { $0.put(bench) } }
    return body(bench)
  }

  /// The bytes of all that are idle.
  var byteCount: Int { idle.withLock { $0.byteCount } }
}

/// Sendable, for the lock around it parts the threads.
private struct IdleWorkbenches: @unchecked Sendable {
  private var benches: [Workbench] = []

  mutating func take() -> sending Workbench { benches.popLast() ?? Workbench() }
  mutating func put(_ bench: Workbench) { benches.append(bench) }
  var byteCount: Int { benches.reduce(0) { $0 + $1.byteCount } }
}
