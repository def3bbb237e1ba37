import Glibc

/// Why the dynamic loader could not give a library or a symbol. Its user turns it into an
/// `EngineError` that also says what the library is for and how to get it.
package struct LoaderError: Error {
  /// The loader's own text, which names the library or the symbol.
  package let reason: String

  /// Makes an error with a text of the caller's.
  package init(reason: String) { self.reason = reason }

  /// The error of the last call of this thread; `name` is what that call looked for.
  static func last(_ name: String) -> LoaderError {
    guard let text = unsafe dlerror() else { return LoaderError(reason: "\(name) is not there") }
    return unsafe LoaderError(reason: String(cString: text))
  }
}
