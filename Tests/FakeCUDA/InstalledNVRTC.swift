import Foundation

/// NVRTC from AUTOEP_NVRTC, or from the virtual environment of `make test`.
public enum InstalledNVRTC {
  /// The library's path; nil if it is not installed.
  public static let path: String? = {
    let named = ProcessInfo.processInfo.environment["AUTOEP_NVRTC"]
    if let named, !named.isEmpty { return named }
    return inVirtualEnvironment("libnvrtc.so.13") ?? ofCUDA12
  }()

  /// The path of CUDA 12's NVRTC, which has another assembler.
  public static let ofCUDA12 = inVirtualEnvironment("libnvrtc.so.12")

  /// The message of tests that are skipped without NVRTC.
  public static let advice =
    "no NVRTC: set AUTOEP_NVRTC, or `make test`, which installs nvidia-cuda-nvrtc"

  private static func inVirtualEnvironment(_ name: String) -> String? {
    let python = children(of: package.appending(path: ".venv/lib"))
    let packages = python.flatMap { children(of: $0.appending(path: "site-packages/nvidia")) }
    return packages.flatMap { children(of: $0.appending(path: "lib")) }
      .first { $0.lastPathComponent == name }?.path
  }

  private static func children(of folder: URL) -> [URL] {
    (try? FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil))
      ?? []
  }
}
