import AutoEPCore
import AutoEPSystem
import Foundation
import FakeCUDA
import Testing

@testable import AutoEPCUDA

/// One image that a device may need.
struct KernelBuild: Sendable, CustomTestStringConvertible {
  let source: KernelSource
  let defines: KernelSource.Defines
  let architecture: Architecture

  var testDescription: String {
    ([source.name] + defines.map(\.text) + [architecture.name]).joined(separator: " ")
  }

  static let all = KernelSource.all.flatMap { source in
    builds(source, source.everyChoice, Architecture(major: 9, minor: 0))
      + builds(source, source.everyFirstChoice, Architecture(major: 8, minor: 0))
  }

  private static func builds(
    _ source: KernelSource, _ variants: [KernelSource.Defines], _ architecture: Architecture
  ) -> [KernelBuild] {
    guard architecture.runs(source.target) else { return [] }
    return variants.map {
      KernelBuild(source: source, defines: $0, architecture: architecture)
    }
  }
}

extension KernelSource {
  /// Variants that together contain every choice of every axis; the other axes have their last choice. All
  /// combinations would take an hour.
  var everyChoice: [Defines] { variants(changing: axes.indices) }

  /// The variants of the first axis, which has the element types.
  var everyFirstChoice: [Defines] { variants(changing: axes.indices.prefix(1)) }

  private func variants(changing changed: Range<Int>) -> [Defines] {
    let last = axes.map { $0.last ?? [] }
    let others = changed.flatMap { axis in
      axes[axis].dropLast().map { choice in
        last.indices.flatMap { $0 == axis ? choice : last[$0] }
      }
    }
    return others + [Array(last.joined())]
  }
}

@Suite struct KernelListTests {
  @Test("every header is in the list, once, in order")
  func headers() throws {
    let folder = package.appending(path: "Sources/AutoEPCUDA/Kernels")
    let files = try FileManager.default.contentsOfDirectory(atPath: folder.path)
    #expect(files.filter { !$0.hasSuffix(".cu") }.sorted() == KernelHeader.all.map(\.name))
    for header in KernelHeader.all {
      #expect(
        try Data(header.text) == Data(contentsOf: folder.appending(path: header.name)),
        "\(header.name)")
    }
  }

  @Test("every file of kernels is in the list, once, with distinct variants")
  func list() throws {
    let folder = package.appending(path: "Sources/AutoEPCUDA/Kernels")
    let files = try FileManager.default.contentsOfDirectory(atPath: folder.path)
    #expect(files.filter { $0.hasSuffix(".cu") }.sorted() == KernelSource.all.map(\.name).sorted())
    for source in KernelSource.all {
      for axis in source.axes {
        #expect(Set(axis).count == axis.count && !axis.isEmpty, "\(source.name)")
      }
      #expect(source.everyChoice.allSatisfy(source.allows), "\(source.name)")
      #expect(!source.allows(KernelVariant.define("UNKNOWN", 1)), "\(source.name)")
    }
  }
}

@Suite(.enabled(if: InstalledNVRTC.path != nil, Comment(rawValue: InstalledNVRTC.advice)))
struct CompileTests {
  @Test("compiles without a warning, a spill or a stack frame", arguments: KernelBuild.all)
  func compiles(build: KernelBuild) throws { try check(build, by: TestCompiler.open()) }

  @Test(
    "compiles without problems with the compiler of CUDA 12",
    .enabled(if: InstalledNVRTC.ofCUDA12 != nil, Comment(rawValue: InstalledNVRTC.advice)),
    arguments: KernelBuild.all)
  func compilesByCUDA12(build: KernelBuild) throws {
    try check(build, by: TestCompiler.openOfCUDA12())
  }

  private func check(_ build: KernelBuild, by compiler: NVRTCLibrary) throws {
    let output = try compiler.compile(
      build.source.text, name: build.source.name,
      options: build.architecture.options(build.defines))
    let log = CompileLog(text: output.log)
    #expect(log.tellsOfKernels)
    #expect(log.problems.isEmpty)
    // ELF, which the driver loads.
    #expect(output.image.starts(with: [0x7F, 0x45, 0x4C, 0x46]))
  }

  private static let slow = [
    ("warning", "extern \"C\" __global__ void f(int *x) { int unused; *x = 1; }"),
    (
      "stack frame",
      """
      extern "C" __global__ void f(int *x) {
        int t[64];
        for (int i = 0; i < 64; i++) t[i] = i;
        for (int i = 0; i < 64; i++) t[x[i] & 63] += x[i + 64];
        for (int i = 0; i < 64; i++) x[i] = t[i];
      }
      """
    ),
    (
      "C7508",
      """
      extern "C" __global__ void f(int *x) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        *x = 1;
      }
      """
    ),
  ]

  @Test("the log of a slow kernel has problems", arguments: slow)
  func slowKernels(word: String, source: String) throws {
    let output = try TestCompiler.open().compile(
      Array(source.utf8), name: "slow.cu", options: Architecture(major: 9, minor: 0).options([]))
    let log = CompileLog(text: output.log)
    #expect(log.problems.contains { $0.contains(word) }, "\(output.log)")
  }

  @Test("a source that does not compile is an error with the compiler's message")
  func badSource() throws {
    let compiler = try TestCompiler.open()
    do {
      _ = try compiler.compile(Array("int f( {".utf8), name: "bad.cu", options: ["-arch=sm_80"])
      Issue.record("no failure")
    } catch {
      #expect(error.kind == .internal)
      #expect(error.message.contains("bad.cu") && error.message.contains("error"))
    }
  }

  @Test("an unknown option is an error with the call's name")
  func badOption() throws {
    let compiler = try TestCompiler.open()
    #expect(throws: EngineError.self) {
      _ = try compiler.compile(Array("".utf8), name: "a.cu", options: ["--no-such-option"])
    }
  }
}
