import AutoEPCore
import AutoEPSystem

/// Makes images of kernel sources, or finds them where it has left them.
struct KernelCompiler: Sendable {
  let library: NVRTCLibrary
  let cache: KernelCache?
  /// As the driver counts.
  let driverVersion: Int

  /// A source's image for a processor.
  func image(
    of source: KernelSource, _ defines: KernelSource.Choice, for architecture: Architecture
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
