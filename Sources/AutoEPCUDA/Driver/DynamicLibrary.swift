import CCUDA
import Glibc

/// A library that was opened at run time, and stays so until the process ends.
@safe
struct DynamicLibrary: @unchecked Sendable {
  let name: String
  private let handle: UnsafeMutableRawPointer

  /// Opens a library by path or soname.
  init(opening name: String) throws(LoaderError) {
    try self.init(name, flags: RTLD_NOW | RTLD_LOCAL)
  }

  /// A library that the process has loaded already.
  init(loaded soname: String) throws(LoaderError) {
    try self.init(soname, flags: RTLD_NOW | RTLD_NOLOAD)
  }

  private init(_ name: String, flags: Int32) throws(LoaderError) {
    guard let handle = unsafe dlopen(name, flags) else { throw LoaderError.last(name) }
    self.name = name
    unsafe self.handle = unsafe handle
  }

  /// A function, whose type the caller knows.
  @unsafe
  func function<Function>(_ symbol: String) throws(LoaderError) -> Function {
    guard let address = unsafe dlsym(handle, symbol) else { throw LoaderError.last(symbol) }
    return unsafe unsafeBitCast(address, to: Function.self)
  }

  /// The folder of the file that a function came from, nil where the loader does not tell.
  func folder(ofFunction symbol: String) -> String? {
    var info = unsafe loader_symbol()
    guard let address = unsafe dlsym(handle, symbol), unsafe loader_symbol_at(address, &info) != 0,
      let path = unsafe info.file.map({ unsafe String(cString: $0) }),
      let end = path.lastIndex(of: "/")
    else { return nil }
    return String(path[..<end])
  }
}

/// What the dynamic loader says of a library or symbol that it could not give.
struct LoaderError: Error {
  let reason: String

  fileprivate static func last(_ name: String) -> LoaderError {
    guard let text = unsafe dlerror() else { return LoaderError(reason: "\(name) is not there") }
    return unsafe LoaderError(reason: String(cString: text))
  }
}
