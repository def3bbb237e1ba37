import Foundation
import Testing

/// The library file: its exports, its dependencies, and its use by a C program.
@Suite struct LibraryTests {
  private static let package = URL(filePath: #filePath)
    .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
  private static let library = Bundle.main.executableURL!
    .deletingLastPathComponent().appending(path: "libautoep.so")
  private static let header = package.appending(path: "include/autoep.h")

  /// Runs a command and returns its output; records an issue if the command fails.
  private func run(_ command: String...) throws -> String {
    let process = Process()
    process.executableURL = URL(filePath: "/usr/bin/env")
    process.arguments = command
    let output = Pipe()
    process.standardOutput = output
    process.standardError = output
    try process.run()
    let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    #expect(process.terminationStatus == 0, "\(command.joined(separator: " ")): \(text)")
    return text
  }

  @Test("exports exactly the functions of the header")
  func exports() throws {
    let text = try String(contentsOf: Self.header, encoding: .utf8)
    let declared = Set(text.matches(of: /\b(autoep_[a-z0-9_]+)\(/).map { String($0.1) })
    let symbols = try run("nm", "-D", "--defined-only", Self.library.path)
    let exported = Set(
      symbols.split(separator: "\n").map { String($0.split(separator: " ").last!) })
    #expect(exported == declared)
  }

  @Test("needs no Swift, no MPI and no OpenBLAS to load")
  func dependencies() throws {
    let needed = try run("readelf", "-d", Self.library.path)
      .matches(of: /NEEDED.*\[(.*)\]/).map { String($0.1) }
    let system = ["libc.so", "libm.so", "libgcc_s.so", "libstdc++.so", "libdl.so", "libpthread.so"]
    for name in needed {
      #expect(system.contains { name.hasPrefix($0) } || name.hasPrefix("ld-linux"), "\(name)")
    }
  }

  @Test("a C program includes the header and runs a layer")
  func cProgram() throws {
    #expect(try runProgram("layer.c").contains("largest error"))
  }

  @Test("the code of docs/c_interface.md is the program's")
  func documentedProgram() throws {
    let program = try String(
      contentsOf: Self.package.appending(path: "Tests/CProgram/layer.c"), encoding: .utf8)
    let page = try String(
      contentsOf: Self.package.appending(path: "docs/c_interface.md"), encoding: .utf8)
    let blocks = page.matches(of: /```c\n((?:.|\n)*?)\n```/).map { String($0.1) }
    #expect(blocks.count >= 4)
    for block in blocks { #expect(program.contains(block), "\(block)") }
  }

  @Test("forked children can use communicators, if the parent has used only those")
  func forkAfterCommunicatorsOnly() throws {
    _ = try runProgram("fork_communicators.c")
  }

  /// Builds a program of `Tests/CProgram` with the library; returns its output.
  private func runProgram(_ source: String) throws -> String {
    let program = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString)
    defer { try? FileManager.default.removeItem(at: program) }
    let folder = Self.library.deletingLastPathComponent().path
    _ = try run(
      "cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-pthread",
      "-I\(Self.header.deletingLastPathComponent().path)",
      Self.package.appending(path: "Tests/CProgram/\(source)").path, "-o", program.path,
      "-L\(folder)", "-Wl,-rpath,\(folder)", "-lautoep", "-lm")
    return try run(program.path)
  }
}
