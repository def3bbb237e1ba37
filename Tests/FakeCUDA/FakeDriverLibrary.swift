import Foundation

/// The driver and the NCCL of Tests/FakeDriver as a library of its own, in a folder that goes with the object.
public final class FakeDriverLibrary: Sendable {
  /// The folder; tests may add files to it.
  public let folder = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString)

  /// The path of the library.
  public var path: String { folder.appending(path: "libfake.so").path }

  /// Compiles it; who opens it opens one that shares nothing with others.
  ///
  /// - Parameter soname: the name under which the loader then knows it.
  public init(soname: String = "libfake.so") throws {
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    let compiler = Process()
    compiler.executableURL = URL(filePath: "/usr/bin/env")
    let sources = [
      "fake_driver.c", "fake_streams.c", "fake_memory.c", "fake_push.c", "fake_nccl.c",
    ].map { "\(package.path)/Tests/FakeDriver/\($0)" }
    compiler.arguments =
      [
        "cc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC",
        // Calls within the library stay there, although another copy may be open for the whole process.
        "-Wl,-Bsymbolic", "-Wl,-soname,\(soname)", "-I\(package.path)/Sources/CCUDA",
        "-I\(package.path)/Sources/CNCCL", "-I\(package.path)/Sources/AutoEPCUDA/Kernels",
        "-o", path,
      ] + sources
    try compiler.run()
    compiler.waitUntilExit()
    guard compiler.terminationStatus == 0 else { throw CompilationFailed() }
  }

  deinit { try? FileManager.default.removeItem(at: folder) }

  private struct CompilationFailed: Error {}
}

/// The folder of Package.swift.
public let package = URL(filePath: #filePath)
  .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
