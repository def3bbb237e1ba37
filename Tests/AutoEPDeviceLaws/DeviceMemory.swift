import AutoEPCore
import AutoEPLayerLaws
import AutoEPSystem

/// Memory of a CUDA device, filled and read over the driver.
public final class DeviceMemory: LawMemory {
  private let driver: MemoryDriver

  /// Of the device of a number, over the driver that the loader finds under a name.
  ///
  /// - Parameter stream: What reading waits for, by its handle.
  public init(ordinal: Int, driver name: String = "libcuda.so.1", stream: UInt = 0) throws {
    driver = try MemoryDriver(ordinal: ordinal, name, stream: stream)
  }

  /// Copies the bytes to new memory, which the driver aligns to 256 bytes.
  public func allocate(_ bytes: [UInt8]) throws -> Storage {
    let address = try driver.allocate(bytes.count)
    try driver.write(bytes, to: address)
    return .device(DeviceAddress(address))
  }

  /// Waits for the stream, which is where a fault of a kernel shows, and copies what is there.
  public func bytes(at storage: Storage, count: Int) throws -> [UInt8] {
    guard case .device(let address) = storage else {
      throw EngineError(.internal, "the laws read host memory as the device's")
    }
    return try driver.read(count, from: address.bits)
  }

  /// Replaces the bytes of memory.
  public func write(_ bytes: [UInt8], to storage: Storage) throws {
    guard case .device(let address) = storage else {
      throw EngineError(.internal, "the laws write to host memory as the device's")
    }
    try driver.write(bytes, to: address.bits)
  }

  /// Frees the memory.
  public func free(_ storage: Storage) {
    if case .device(let address) = storage { driver.free(address.bits) }
  }
}

/// The functions of the driver that move memory, each with its name in errors.
private struct MemoryDriver: @unchecked Sendable {
  private typealias Allocate = @convention(c) (UnsafeMutablePointer<UInt64>?, Int) -> Int32
  private typealias Free = @convention(c) (UInt64) -> Int32
  private typealias Write = @convention(c) (UInt64, UnsafeRawPointer?, Int) -> Int32
  private typealias Read = @convention(c) (UnsafeMutableRawPointer?, UInt64, Int) -> Int32
  private typealias Synchronize = @convention(c) (OpaquePointer?) -> Int32
  private typealias RetainContext =
    @convention(c) (UnsafeMutablePointer<OpaquePointer?>?, Int32) -> Int32
  private typealias SetContext = @convention(c) (OpaquePointer?) -> Int32
  private typealias GetDevice = @convention(c) (UnsafeMutablePointer<Int32>?, Int32) -> Int32
  private typealias GetErrorName =
    @convention(c) (Int32, UnsafeMutablePointer<UnsafePointer<CChar>?>?) -> Int32

  private let allocateMemory: Allocate
  private let freeMemory: Free
  private let copyToDevice: Write
  private let copyFromDevice: Read
  private let synchronizeStream: Synchronize
  private let setContext: SetContext
  private let getErrorName: GetErrorName
  private let context: OpaquePointer?
  private let stream: OpaquePointer?

  init(ordinal: Int, _ name: String, stream: UInt) throws {
    self.stream = OpaquePointer(bitPattern: stream)
    let library = try DynamicLibrary(opening: name)
    allocateMemory = try library.function("cuMemAlloc_v2")
    freeMemory = try library.function("cuMemFree_v2")
    copyToDevice = try library.function("cuMemcpyHtoD_v2")
    copyFromDevice = try library.function("cuMemcpyDtoH_v2")
    synchronizeStream = try library.function("cuStreamSynchronize")
    setContext = try library.function("cuCtxSetCurrent")
    getErrorName = try library.function("cuGetErrorName")
    let getDevice: GetDevice = try library.function("cuDeviceGet")
    let retain: RetainContext = try library.function("cuDevicePrimaryCtxRetain")
    var device: Int32 = 0
    var context: OpaquePointer?
    let results = [
      ("cuDeviceGet", getDevice(&device, Int32(ordinal))),
      ("cuDevicePrimaryCtxRetain", retain(&context, device)),
    ]
    self.context = context
    for (call, result) in results { try check(call, result) }
  }

  func allocate(_ byteCount: Int) throws -> UInt64 {
    var address: UInt64 = 0
    try enter()
    try check("cuMemAlloc_v2 of \(byteCount) bytes", allocateMemory(&address, max(byteCount, 1)))
    return address
  }

  /// Fails where a kernel has, which the next wait tells too.
  func free(_ address: UInt64) { _ = freeMemory(address) }

  func write(_ bytes: [UInt8], to address: UInt64) throws {
    try enter()
    try bytes.withUnsafeBytes {
      try check("cuMemcpyHtoD_v2", copyToDevice(address, $0.baseAddress, $0.count))
    }
  }

  func read(_ count: Int, from address: UInt64) throws -> [UInt8] {
    try enter()
    try check("cuStreamSynchronize: a kernel failed", synchronizeStream(stream))
    var bytes = [UInt8](repeating: 0, count: count)
    try bytes.withUnsafeMutableBytes {
      try check("cuMemcpyDtoH_v2", copyFromDevice($0.baseAddress, address, $0.count))
    }
    return bytes
  }

  /// Makes the context current, which each thread of a rank has to.
  private func enter() throws { try check("cuCtxSetCurrent", setContext(context)) }

  private func check(_ call: String, _ result: Int32) throws {
    guard result != 0 else { return }
    var name: UnsafePointer<CChar>?
    _ = getErrorName(result, &name)
    let text = name.map { String(cString: $0) } ?? "error \(result)"
    throw EngineError(.internal, "\(call): \(text)")
  }
}
