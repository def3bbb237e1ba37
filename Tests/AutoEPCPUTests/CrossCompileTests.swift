import Foundation
import Testing

/// Compiles the kernels for processors other than this machine's.
@Suite struct CrossCompileTests {
  private static let sources = URL(filePath: #filePath)
    .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    .appending(path: "Sources/CMicroKernels")

  /// The parts of the C library that the sources need; its headers for other processors are not installed here.
  private static let stringHeader = """
    #include <stddef.h>
    void *memcpy(void *, const void *, size_t);
    int strcmp(const char *, const char *);
    """

  @Test(arguments: [
    "neon_gemm", "portable_gemm", "pack_f32", "pack_f64", "pack_bf16_widened", "rows",
    "exponential_f32", "table",
  ])
  func compilesForAArch64(source: String) throws {
    let folder = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    try Self.stringHeader.write(
      to: folder.appending(path: "string.h"), atomically: true, encoding: .utf8)
    let compiler = Process()
    compiler.executableURL = URL(filePath: "/usr/bin/env")
    compiler.arguments = [
      "clang", "--target=aarch64-linux-gnu", "-ffreestanding", "-O3", "-ffp-contract=off", "-Wall",
      "-Wextra", "-Werror", "-I\(Self.sources.path)/include", "-I\(folder.path)", "-c",
      "\(Self.sources.path)/\(source).c", "-o", folder.appending(path: "out.o").path,
    ]
    let output = Pipe()
    compiler.standardError = output
    try compiler.run()
    let text = output.fileHandleForReading.readDataToEndOfFile()
    compiler.waitUntilExit()
    #expect(compiler.terminationStatus == 0, "\(String(decoding: text, as: UTF8.self))")
  }
}
