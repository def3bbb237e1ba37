import AutoEPCore
import AutoEPSystem
import CCUDA

/// A kernel loaded on a device, where it stays until the process ends.
@safe
final class CUDAKernel: @unchecked Sendable {
  private let name: String
  private let function: cuda_function
  private let context: DeviceContext
  private let driver: CUDADriver
  #if DEBUG
    /// The bytes of each parameter; nil if the driver cannot report them.
    private let parameterSizes: [Int]?
  #endif

  /// Finds a kernel in a module and raises its shared memory limit to the device's maximum. The
  /// context must be current.
  init(
    _ name: String, in module: cuda_module, _ context: DeviceContext, _ driver: CUDADriver,
    sharedBytesPerBlock: Int
  ) throws(EngineError) {
    let functions = driver.functions
    var function: cuda_function?
    try driver.check(
      "cuModuleGetFunction of \(name)", unsafe functions.moduleGetFunction(&function, module, name))
    guard let function = unsafe function else {
      throw EngineError(.internal, "cuModuleGetFunction gave no function \(name)")
    }
    var staticBytes: Int32 = 0
    try driver.check(
      "cuFuncGetAttribute",
      unsafe functions.funcGetAttribute(&staticBytes, cuda_function_shared_bytes, function))
    try driver.check(
      "cuFuncSetAttribute",
      unsafe functions.funcSetAttribute(
        function, cuda_function_max_dynamic_shared_bytes, Int32(sharedBytesPerBlock) - staticBytes))
    #if DEBUG
      parameterSizes = unsafe driver.parameterSizes(of: function)
    #endif
    self.name = name
    unsafe self.function = unsafe function
    self.context = context
    self.driver = driver
  }

  /// Enqueues a launch on a stream; does nothing for an empty grid. Arguments are in the kernel's order. Debug builds
  /// compare their sizes with those of the kernel's parameters and throw if they differ, so that tests find mistakes
  /// without a GPU.
  func launch<each Argument: KernelArgument>(
    grid: LaunchSize, block: LaunchSize, sharedBytes: Int = 0, cluster: LaunchSize? = nil,
    on stream: CUDAStream, _ arguments: repeat each Argument
  ) throws(EngineError) {
    #if DEBUG
      var sizes: [Int] = []
      for type in repeat (each Argument).self { sizes.append(type.byteCount) }
      try check(argumentSizes: sizes)
    #endif
    if grid.isEmpty { return }
    let (grid, block) = (try grid.checked("grid"), try block.checked("block"))
    let cluster = try cluster?.checked("cluster")
    var attribute = cuda_launch_attribute()
    attribute.id = cuda_launch_cluster_dimension
    if let cluster { (attribute.value.x, attribute.value.y, attribute.value.z) = cluster }
    let result = try context.run { () throws(EngineError) in
      unsafe withPointers(repeat each arguments) { pointers in
        unsafe withUnsafeMutablePointer(to: &attribute) { attribute in
          var config = unsafe cuda_launch_config(
            grid_x: grid.x, grid_y: grid.y, grid_z: grid.z, block_x: block.x, block_y: block.y,
            block_z: block.z, shared_bytes: UInt32(sharedBytes), stream: stream.handle,
            attributes: attribute, attribute_count: cluster == nil ? 0 : 1)
          return unsafe driver.functions.launchKernelEx(&config, function, pointers, nil)
        }
      }
    }
    try driver.check("cuLaunchKernelEx of \(name)", result)
  }

  #if DEBUG
    private func check(argumentSizes sizes: [Int]) throws(EngineError) {
      guard let parameterSizes, parameterSizes != sizes else { return }
      throw EngineError(
        .internal,
        "a launch of \(name) has arguments of \(sizes) bytes; the kernel takes \(parameterSizes)")
    }
  #endif
}

#if DEBUG
  extension CUDADriver {
    /// The bytes of each parameter of a kernel.
    fileprivate func parameterSizes(of function: cuda_function) -> [Int]? {
      guard let getInfo = unsafe functions.funcGetParamInfo else { return nil }
      var sizes: [Int] = []
      var (offset, size) = (0, 0)
      while unsafe getInfo(function, sizes.count, &offset, &size) == cuda_success {
        sizes.append(size)
      }
      return sizes
    }
  }
#endif

/// Lends an array of pointers to the arguments' bits, on the stack unless there are many.
private func withPointers<each Argument: KernelArgument, Result>(
  _ arguments: repeat each Argument,
  to body: (UnsafeMutablePointer<UnsafeMutableRawPointer?>?) -> Result
) -> Result {
  var (count, byteCount) = (0, 0)
  for type in repeat (each Argument).self {
    count += 1
    byteCount += padded(type.byteCount)
  }
  return unsafe withUnsafeTemporaryAllocation(
    of: UnsafeMutableRawPointer?.self, capacity: count
  ) { pointers in
    unsafe withAlignedBytes(byteCount) { memory in
      var (index, offset) = (0, 0)
      for (argument, type) in repeat (each arguments, (each Argument).self) {
        let address = unsafe memory + offset
        unsafe argument.store(at: address)
        unsafe pointers.initializeElement(at: index, to: address)
        index += 1
        offset += padded(type.byteCount)
      }
      return unsafe body(pointers.baseAddress)
    }
  }
}

/// The bytes reserved for an argument: each starts at a multiple of a tensor map's alignment.
private func padded(_ byteCount: Int) -> Int {
  (byteCount + TensorMap.alignment - 1) / TensorMap.alignment * TensorMap.alignment
}
