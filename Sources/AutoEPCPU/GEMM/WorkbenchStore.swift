import AutoEPCore
import AutoEPSystem

/// The idle workbenches.
final class WorkbenchStore: Sendable {
  private let idle = Locked<[Workbench]>([])

  /// Lends a workbench: the one used last, because its memory is still cached, or a new one.
  func withWorkbench<Result>(_ body: (Workbench) -> Result) -> Result {
    let bench = idle.withLock { $0.popLast() } ?? Workbench()
    defer { idle.withLock { $0.append(bench) } }
    return body(bench)
  }

  /// The bytes of all idle workbenches.
  var byteCount: Int { idle.withLock { $0.reduce(0) { $0 + $1.byteCount } } }
}
