import Foundation

/// NVRTC where AUTOEP_NVRTC names it, or in the virtual environment of `make test`.
public enum InstalledNVRTC {
  /// The library, nil where there is none.
  public static let path: String? = {
    let named = ProcessInfo.processInfo.environment["AUTOEP_NVRTC"]
    return if let named, !named.isEmpty { named } else { inVirtualEnvironment }
  }()

  /// What a test that was skipped for want of it prints.
  public static let advice =
    "no NVRTC: set AUTOEP_NVRTC, or `make test`, which installs nvidia-cuda-nvrtc"

  private static var inVirtualEnvironment: String? {
    let python = children(of: package.appending(path: ".venv/lib"))
    let packages = python.flatMap { children(of: $0.appending(path: "site-packages/nvidia")) }
    return packages.flatMap { children(of: $0.appending(path: "lib")) }
      .first { ["libnvrtc.so.13", "libnvrtc.so.12"].contains($0.lastPathComponent) }?.path
  }

  private static func children(of folder: URL) -> [URL] {
    (try? FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil))
      ?? []
  }
}
