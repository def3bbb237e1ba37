import Glibc

/// Why the dynamic loader could not open a library or find a symbol. The caller turns it into an
/// `EngineError` that also says what the library is for and how to install it.
package struct LoaderError: Error {
  /// The loader's own text, which names the library or the symbol.
  package let reason: String

  /// Makes an error with the caller's own text.
  package init(reason: String) { self.reason = reason }

  /// The loader's error of the last call on this thread, which looked for `name`.
  static func last(_ name: String) -> LoaderError {
    guard let text = unsafe dlerror() else { return LoaderError(reason: "\(name) was not found") }
    return unsafe LoaderError(reason: String(cString: text))
  }
}
