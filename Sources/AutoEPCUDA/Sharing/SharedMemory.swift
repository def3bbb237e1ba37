import AutoEPCore
import AutoEPSystem
import CCUDA

/// Memory of a GPU that several processes map: one allocates it, and passes the others a file descriptor.
///
/// The memory itself is freed with the last mapping, so that a process can end before those that still write to it.
@safe
package final class SharedMemory: Sendable {
  /// The address at which this process has mapped it.
  package let address: DeviceAddress
  private let byteCount: Int
  private let context: DeviceContext

  /// Allocates memory on a device.
  ///
  /// - Parameter export: Receives a file descriptor of the memory, which it owns.
  package convenience init(
    byteCount: Int, on device: CUDADevice, export: (Int32) -> Void
  ) throws(EngineError) {
    let driver = device.driver
    var properties = unsafe try Self.properties(of: device)
    let size = try Self.size(byteCount, on: device)
    var memory: cuda_memory = 0
    try device.context.run { () throws(EngineError) in
      try driver.check(
        "cuMemCreate of \(size) bytes on CUDA device \(device.ordinal)",
        unsafe driver.functions.memCreate(&memory, size, &properties, 0))
    }
    defer { _ = driver.functions.memRelease(memory) }
    try self.init(memory, size, mappedOn: device)
    var descriptor: Int32 = -1
    try driver.check(
      "cuMemExportToShareableHandle",
      unsafe driver.functions.memExportToShareableHandle(
        &descriptor, memory, cuda_memory_handle_descriptor, 0))
    export(descriptor)
  }

  /// Maps memory that another process, or this one, has allocated with the same number of bytes.
  ///
  /// - Parameters:
  ///   - descriptor: Of the memory; stays the caller's.
  ///   - device: What will access it.
  package convenience init(
    opening descriptor: Int32, byteCount: Int, for device: CUDADevice
  ) throws(EngineError) {
    let driver = device.driver
    var memory: cuda_memory = 0
    try device.context.run { () throws(EngineError) in
      try driver.check(
        "cuMemImportFromShareableHandle",
        unsafe driver.functions.memImportFromShareableHandle(
          &memory, UnsafeMutableRawPointer(bitPattern: UInt(descriptor)),
          cuda_memory_handle_descriptor))
    }
    defer { _ = driver.functions.memRelease(memory) }
    try self.init(memory, Self.size(byteCount, on: device), mappedOn: device)
  }

  /// Maps memory at an address of its own, for one device.
  private init(
    _ memory: cuda_memory, _ size: Int, mappedOn device: CUDADevice
  ) throws(EngineError) {
    let driver = device.driver
    var address: cuda_address = 0
    var isMapped = false
    do throws(EngineError) {
      try device.context.run { () throws(EngineError) in
        try driver.check(
          "cuMemAddressReserve of \(size) bytes",
          unsafe driver.functions.memAddressReserve(&address, size, 0, 0, 0))
        try driver.check(
          "cuMemMap", driver.functions.memMap(address, size, 0, memory, 0))
        isMapped = true
        var access = cuda_memory_access(
          location: Self.location(device), flags: cuda_memory_read_write)
        try driver.check(
          "cuMemSetAccess for CUDA device \(device.ordinal)",
          unsafe driver.functions.memSetAccess(address, size, &access, 1))
      }
    } catch {
      if isMapped { _ = driver.functions.memUnmap(address, size) }
      if address != 0 { _ = driver.functions.memAddressFree(address, size) }
      throw error
    }
    self.address = DeviceAddress(address)
    byteCount = size
    context = device.context
  }

  /// Unmaps the memory. The caller has waited for the work that accesses it.
  deinit {
    _ = try? context.run { () throws(EngineError) in
      _ = context.driver.functions.memUnmap(address.bits, byteCount)
      _ = context.driver.functions.memAddressFree(address.bits, byteCount)
    }
  }

  /// A number of bytes, rounded up to what the driver maps.
  private static func size(_ byteCount: Int, on device: CUDADevice) throws(EngineError) -> Int {
    var properties = unsafe try Self.properties(of: device)
    var granularity = 0
    try device.driver.check(
      "cuMemGetAllocationGranularity",
      unsafe device.driver.functions.memGetAllocationGranularity(
        &granularity, &properties, cuda_memory_granularity_recommended))
    let unit = max(granularity, 1)
    return (byteCount + unit - 1) / unit * unit
  }

  private static func properties(
    of device: CUDADevice
  ) throws(EngineError) -> cuda_memory_properties {
    var properties = unsafe cuda_memory_properties()
    unsafe properties.type = cuda_memory_pinned
    unsafe properties.handle_type = cuda_memory_handle_descriptor
    unsafe properties.location = location(device)
    return unsafe properties
  }

  private static func location(_ device: CUDADevice) -> cuda_memory_location {
    // The driver numbers a process's devices from 0 on, as `cuDeviceGet` does.
    cuda_memory_location(type: cuda_memory_location_device, id: Int32(device.ordinal))
  }
}
