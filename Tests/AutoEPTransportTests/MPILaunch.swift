import AutoEPTransportLaws
import Foundation

/// Compiles libautoep_mpi.so, and starts AutoEPMPILaws under mpirun.
struct MPILaunch {
  static let isPossible = ["mpicc", "mpirun"].allSatisfy { program in
    (try? run("/bin/sh", ["-c", "command -v \(program)"]))?.status == 0
  }

  /// Compiled once per test run.
  static let library = Result { try compile() }

  /// Runs one check on `ranks` ranks; ends them all after two minutes.
  static func run(_ check: String, ranks: Int) throws -> (status: Int32, output: String) {
    return try run(
      "/usr/bin/env",
      [
        "OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
        "OMPI_MCA_rmaps_base_oversubscribe=1", "timeout", "120", "mpirun", "-n", "\(ranks)",
        try products().appendingPathComponent("AutoEPMPILaws").path, try library.get(), check,
      ])
  }

  private static func compile() throws -> String {
    let checkout = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .deletingLastPathComponent().deletingLastPathComponent().path
    let library = try products().appendingPathComponent("libautoep_mpi.so").path
    let (status, output) = try run(
      "/usr/bin/env",
      [
        "mpicc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC",
        "-I\(checkout)/include", "\(checkout)/Sources/CMPI/autoep_mpi.c", "-o", library,
      ])
    guard status == 0 else { throw BrokenLaw("autoep_mpi.c does not compile:\n\(output)") }
    return library
  }

  /// The folder of this test's executable and the programs built with it.
  private static func products() throws -> URL {
    let program = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
    return URL(fileURLWithPath: program).deletingLastPathComponent()
  }

  private static func run(
    _ program: String, _ arguments: [String]
  ) throws -> (status: Int32, output: String) {
    let process = Process()
    let pipe = Pipe()
    process.executableURL = URL(fileURLWithPath: program)
    process.arguments = arguments
    process.standardInput = FileHandle.nullDevice
    process.standardOutput = pipe
    process.standardError = pipe
    try process.run()
    let output = pipe.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    return (process.terminationStatus, String(decoding: output, as: UTF8.self))
  }
}
