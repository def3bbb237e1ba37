import AutoEPCore
import AutoEPSystem
import CCUDA

/// One GPU: its primary context, which PyTorch uses as well, and the kernels loaded on it. Created once per process
/// and ordinal, and never freed.
public final class CUDADevice: Sendable {
  /// The driver's number of the device among those visible to this process.
  public let ordinal: Int
  let architecture: Architecture
  /// The number of streaming multiprocessors.
  let processorCount: Int
  /// The bytes of the L2 cache.
  let l2Bytes: Int
  /// The most shared memory per block, in bytes.
  let sharedBytesPerBlock: Int
  let driver: CUDADriver
  let faults: FaultWord
  package let context: DeviceContext
  private let compiler: KernelCompiler
  private let kernels = Locked(LoadedKernels())

  private static let devices = Locked<[Int: CUDADevice]>([:])

  /// The device with a number. The first caller's `nvrtcPath` is a place to look for the compiler.
  public static func shared(_ ordinal: Int, nvrtcPath: String?) throws(EngineError) -> CUDADevice {
    try devices.withLock { devices throws(EngineError) in
      if let device = devices[ordinal] { return device }
      let driver = try CUDADriver.shared()
      let device = try CUDADevice(
        ordinal, driver,
        KernelCompiler(
          library: NVRTCLibrary.shared(path: nvrtcPath), cache: KernelCache.ofUser(),
          driverVersion: driver.version()))
      devices[ordinal] = device
      return device
    }
  }

  init(_ ordinal: Int, _ driver: CUDADriver, _ compiler: KernelCompiler) throws(EngineError) {
    let device = try driver.device(ordinal)
    architecture = try Architecture(
      major: driver.attribute(cuda_compute_capability_major, of: device),
      minor: driver.attribute(cuda_compute_capability_minor, of: device))
    guard architecture.runs(.portable) else {
      throw EngineError(
        .unsupported,
        "CUDA device \(ordinal) is an \(architecture.name); expected sm_80 (Ampere) or newer")
    }
    processorCount = try driver.attribute(cuda_multiprocessor_count, of: device)
    l2Bytes = try driver.attribute(cuda_l2_cache_size, of: device)
    sharedBytesPerBlock = try driver.attribute(cuda_max_shared_bytes_per_block_optin, of: device)
    context = try DeviceContext(device, ordinal: ordinal, driver)
    faults = try FaultWord(context)
    self.driver = driver
    self.compiler = compiler
    self.ordinal = ordinal
  }

  /// A kernel of a source, which is compiled and loaded on first use.
  ///
  /// - Parameter defines: One of the source's variants.
  func kernel(
    _ source: KernelSource, _ name: String, _ defines: KernelSource.Defines = []
  ) throws(EngineError) -> CUDAKernel {
    try kernels.withLock { kernels throws(EngineError) in
      try kernels.find(source, name, defines, on: self)
    }
  }

  /// Loads a source's image.
  fileprivate func load(
    _ source: KernelSource, _ defines: KernelSource.Defines
  ) throws(EngineError) -> DeviceModule {
    guard source.allows(defines), architecture.runs(source.target) else {
      throw EngineError(
        .internal, "\(source.name) has no variant \(defines.map(\.text)) for \(architecture.name)")
    }
    let image = try compiler.image(of: source, defines, for: architecture)
    var module: cuda_module?
    try driver.check(
      "cuModuleLoadDataEx of \(source.name), compiled by \(compiler.library.name)",
      unsafe driver.functions.moduleLoadDataEx(&module, image, 0, nil, nil))
    guard let module = unsafe module else {
      throw EngineError(.internal, "cuModuleLoadDataEx gave no module")
    }
    return unsafe DeviceModule(handle: module)
  }
}

/// A loaded image.
@safe
private struct DeviceModule: @unchecked Sendable {
  let handle: cuda_module
}

/// The loaded images and kernels of a device, by file, variant and kernel name.
private struct LoadedKernels {
  private struct ModuleName: Hashable {
    let source: String
    let defines: KernelSource.Defines
  }

  private struct KernelName: Hashable {
    let module: ModuleName
    let kernel: String
  }

  private var modules: [ModuleName: DeviceModule] = [:]
  private var kernels: [KernelName: CUDAKernel] = [:]

  mutating func find(
    _ source: KernelSource, _ name: String, _ defines: KernelSource.Defines, on device: CUDADevice
  ) throws(EngineError) -> CUDAKernel {
    let moduleName = ModuleName(source: source.name, defines: defines)
    let kernelName = KernelName(module: moduleName, kernel: name)
    if let kernel = kernels[kernelName] { return kernel }
    let kernel = try device.context.run { () throws(EngineError) in
      let loaded =
        if let module = modules[moduleName] { module } else {
          try device.load(source, defines)
        }
      modules[moduleName] = loaded
      return try unsafe CUDAKernel(
        name, in: loaded.handle, device.context, device.driver,
        sharedBytesPerBlock: device.sharedBytesPerBlock)
    }
    kernels[kernelName] = kernel
    return kernel
  }
}

extension CUDADriver {
  /// The device of a number, checked against those there are.
  func device(_ ordinal: Int) throws(EngineError) -> cuda_device {
    var count: Int32 = 0
    try check("cuDeviceGetCount", unsafe functions.deviceGetCount(&count))
    guard (0..<Int(count)).contains(ordinal) else {
      throw EngineError(
        .invalidArgument,
        "CUDA device \(ordinal) does not exist: this process can use \(count), numbered from 0")
    }
    var device: cuda_device = 0
    try check("cuDeviceGet", unsafe functions.deviceGet(&device, Int32(ordinal)))
    return device
  }

  fileprivate func attribute(
    _ attribute: Int32, of device: cuda_device
  ) throws(EngineError) -> Int {
    var value: Int32 = 0
    try check(
      "cuDeviceGetAttribute", unsafe functions.deviceGetAttribute(&value, attribute, device))
    return Int(value)
  }
}
