import CLoader
import Glibc

/// A library opened at run time. It stays open until the process ends.
@safe
package struct DynamicLibrary: @unchecked Sendable {
  /// The path or soname by which the library was found.
  package let name: String
  /// Nil: all global symbols of the process.
  private let handle: UnsafeMutableRawPointer?

  /// Opens a library by path or soname.
  ///
  /// - Parameter global: Whether libraries opened later can use its symbols.
  package init(opening name: String, global: Bool = false) throws(LoaderError) {
    try self.init(name, flags: RTLD_NOW | (global ? RTLD_GLOBAL : RTLD_LOCAL))
  }

  /// Finds a library that the process has already loaded.
  package init(loaded soname: String) throws(LoaderError) {
    try self.init(soname, flags: RTLD_NOW | RTLD_NOLOAD)
  }

  /// The global symbols of the process.
  package static let process = unsafe DynamicLibrary(name: "this process", handle: nil)

  private init(_ name: String, flags: Int32) throws(LoaderError) {
    guard let handle = unsafe dlopen(name, flags) else { throw .last(name) }
    unsafe self.init(name: name, handle: handle)
  }

  private init(name: String, handle: UnsafeMutableRawPointer?) {
    self.name = name
    unsafe self.handle = unsafe handle
  }

  /// Finds a function; the caller supplies its type.
  @unsafe
  package func function<Function>(_ symbol: String) throws(LoaderError) -> Function {
    guard let address = unsafe dlsym(handle, symbol) else { throw .last(symbol) }
    return unsafe unsafeBitCast(address, to: Function.self)
  }

  /// The folder of the file that defines a function, or nil if the loader does not know it.
  package func folder(ofFunction symbol: String) -> String? {
    var info = unsafe loader_symbol()
    guard let address = unsafe dlsym(handle, symbol), unsafe loader_symbol_at(address, &info) != 0,
      let path = unsafe info.file.map({ unsafe String(cString: $0) }),
      let end = path.lastIndex(of: "/")
    else { return nil }
    return String(path[..<end])
  }
}
