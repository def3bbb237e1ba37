import AutoEPCore
import AutoEPSystem

/// Compiles kernel sources to images, or loads images from the cache.
struct KernelCompiler: Sendable {
  let library: NVRTCLibrary
  let cache: KernelCache?
  /// The driver's CUDA version, such as 13000.
  let driverVersion: Int

  /// The image of a source for an architecture.
  func image(
    of source: KernelSource, _ defines: KernelSource.Defines, for architecture: Architecture
  ) throws(EngineError) -> [UInt8] {
    let options = architecture.options(defines)
    let key = KernelCache.key(
      [
        source.text, KernelHeader.digest, Array(options.joined(separator: " ").utf8),
        Array("NVRTC \(library.version.major).\(library.version.minor)".utf8),
        Array("driver \(driverVersion)".utf8),
      ])
    if let image = cache?.load(key) { return image }
    let image = try library.compile(source.text, name: source.name, options: options).image
    cache?.store(image, key)
    return image
  }
}
