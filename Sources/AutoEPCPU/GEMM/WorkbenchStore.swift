import AutoEPCore
import AutoEPSystem

/// The workbenches at which no thread works.
final class WorkbenchStore: Sendable {
  private let idle = Locked<[Workbench]>([])

  /// Lends a workbench, the one used last if any: its memory is warm.
  func withWorkbench<Result>(_ body: (Workbench) -> Result) -> Result {
    let bench = idle.withLock { $0.popLast() } ?? Workbench()
    defer { idle.withLock { $0.append(bench) } }
    return body(bench)
  }

  /// The bytes of all that are idle.
  var byteCount: Int { idle.withLock { $0.reduce(0) { $0 + $1.byteCount } } }
}
