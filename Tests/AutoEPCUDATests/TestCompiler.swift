import FakeCUDA

@testable import AutoEPCUDA

/// The compiler of the tests.
enum TestCompiler {
  static func open() throws -> NVRTCLibrary {
    try NVRTCLibrary.find(environment: InstalledNVRTC.path, path: nil)
  }
}
