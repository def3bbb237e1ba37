import Glibc

/// All handle tables. The first use of one creates all, and fork() waits until no other thread holds a table's lock:
/// in the child no thread could release it.
private struct HandleTables: Sendable {
  let contexts = HandleTable<EngineContext>("context", tag: 1)
  let communicators = HandleTable<Communicator>("communicator", tag: 2)
  let layers = HandleTable<Layer>("layer", tag: 3)

  static let shared: HandleTables = {
    pthread_atfork(
      { HandleTables.shared.lock() }, { HandleTables.shared.unlock() },
      { HandleTables.shared.unlock() })
    return HandleTables()
  }()

  private func lock() {
    contexts.lock()
    communicators.lock()
    layers.lock()
  }

  private func unlock() {
    layers.unlock()
    communicators.unlock()
    contexts.unlock()
  }
}

var contexts: HandleTable<EngineContext> { HandleTables.shared.contexts }
var communicators: HandleTable<Communicator> { HandleTables.shared.communicators }
var layers: HandleTable<Layer> { HandleTables.shared.layers }
