import Foundation

@testable import AutoEPCUDA

/// NVRTC where AUTOEP_NVRTC names it, or in the virtual environment of `make test`.
enum TestCompiler {
  static let package = URL(filePath: #filePath)
    .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

  static let path = environmentValue(NVRTCLibrary.variable) ?? installed

  static func open() throws -> NVRTCLibrary { try NVRTCLibrary.find(environment: path, path: nil) }

  private static var installed: String? {
    let python = children(of: package.appending(path: ".venv/lib"))
    let packages = python.flatMap { children(of: $0.appending(path: "site-packages/nvidia")) }
    return packages.flatMap { children(of: $0.appending(path: "lib")) }
      .first { NVRTCLibrary.sonames.contains($0.lastPathComponent) }?.path
  }

  private static func children(of folder: URL) -> [URL] {
    (try? FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil))
      ?? []
  }
}
