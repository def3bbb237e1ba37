import AutoEPCore
import AutoEPSystem

/// Maps the handles that callers hold to objects. Numbers are never reused and differ between kinds, so a freed,
/// foreign or invented handle is an error.
final class HandleTable<Object: AnyObject & Sendable>: Sendable {
  private struct State {
    var next: UInt64
    var objects: [UInt64: Object] = [:]
  }

  private let kind: String
  private let state: Locked<State>

  /// Makes an empty table. `tag` is unique to it, and is part of its numbers.
  init(_ kind: String, tag: UInt8) {
    self.kind = kind
    state = Locked(State(next: UInt64(tag) << 56 | 1))
  }

  /// Locks the table while the process forks.
  func lock() { state.lock() }
  func unlock() { state.unlock() }

  func insert(_ object: Object) -> UInt64 {
    state.withLock { state in
      defer { state.next += 1 }
      state.objects[state.next] = object
      return state.next
    }
  }

  func find(_ handle: UInt64) throws(EngineError) -> Object {
    guard let object = state.withLock({ $0.objects[handle] }) else { throw unknown(handle) }
    return object
  }

  /// Removes a handle; the object lives until its last user releases it.
  func remove(_ handle: UInt64) throws(EngineError) {
    guard let object = state.withLock({ $0.objects.removeValue(forKey: handle) }) else {
      throw unknown(handle)
    }
    _ = consume object
  }

  private func unknown(_ handle: UInt64) -> EngineError {
    EngineError(
      .invalidHandle,
      "\(handle) is not a live \(kind): it was freed, or is a handle of another kind")
  }
}
