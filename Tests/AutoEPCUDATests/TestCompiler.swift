import FakeCUDA

@testable import AutoEPCUDA

/// The compilers of the tests.
enum TestCompiler {
  static func open() throws -> NVRTCLibrary {
    try NVRTCLibrary.find(environment: InstalledNVRTC.path, path: nil)
  }

  static func openOfCUDA12() throws -> NVRTCLibrary {
    try NVRTCLibrary.find(environment: InstalledNVRTC.ofCUDA12, path: nil)
  }
}
