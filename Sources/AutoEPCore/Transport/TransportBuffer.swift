import AutoEPSystem
import Glibc

/// Memory that a transport owns, freed with its last reference.
@safe
package final class TransportBuffer: @unchecked Sendable {
  /// The memory; not initialised.
  package let bytes: UnsafeMutableRawBufferPointer

  /// Allocates memory for `what`; throws `.outOfMemory` if that fails.
  package init(byteCount: Int, for what: String) throws(EngineError) {
    guard let base = unsafe malloc(max(byteCount, 1)) else {
      throw EngineError(.outOfMemory, "\(what): cannot allocate \(byteCount) bytes")
    }
    unsafe bytes = UnsafeMutableRawBufferPointer(start: base, count: byteCount)
  }

  /// Allocates memory for `what` and copies `source` into it.
  package convenience init(
    copying source: UnsafeRawBufferPointer, for what: String
  ) throws(EngineError) {
    try self.init(byteCount: source.count, for: what)
    unsafe bytes.copyMemory(from: source)
  }

  deinit { unsafe free(bytes.baseAddress) }
}
