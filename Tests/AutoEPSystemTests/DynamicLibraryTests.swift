import AutoEPSystem
import Testing

@Suite struct DynamicLibraryTests {
  private typealias Length = @convention(c) (UnsafePointer<CChar>) -> Int

  @Test("finds functions by name in a library, a loaded library and the process")
  func functions() throws {
    for library in [
      try DynamicLibrary(opening: "libc.so.6"), try DynamicLibrary(loaded: "libc.so.6"), .process,
    ] {
      let strlen: Length = try unsafe library.function("strlen")
      #expect(unsafe strlen("autoep") == 6)
    }
  }

  @Test("looking for a library that is not loaded does not load it")
  func notLoaded() {
    #expect(throws: LoaderError.self) { try DynamicLibrary(loaded: "libnsl_absent.so.1") }
  }

  @Test("the error names the library or the function that is missing")
  func missing() throws {
    let library = try #require(throws: LoaderError.self) {
      try DynamicLibrary(opening: "/nowhere/libabsent.so")
    }
    #expect(library.reason.contains("/nowhere/libabsent.so"))
    let function = try #require(throws: LoaderError.self) {
      let _: Length = try unsafe DynamicLibrary(opening: "libc.so.6").function("no_such_function")
    }
    #expect(function.reason.contains("no_such_function"))
  }
}
