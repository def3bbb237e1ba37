import Foundation

/// NVRTC where AUTOEP_NVRTC names it, or in the virtual environment of `make test`.
public enum InstalledNVRTC {
  /// The library, nil where there is none.
  public static let path: String? = {
    let named = ProcessInfo.processInfo.environment["AUTOEP_NVRTC"]
    if let named, !named.isEmpty { return named }
    return inVirtualEnvironment("libnvrtc.so.13") ?? ofCUDA12
  }()

  /// That of CUDA 12, whose assembler is another.
  public static let ofCUDA12 = inVirtualEnvironment("libnvrtc.so.12")

  /// What a test that was skipped for want of it prints.
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
