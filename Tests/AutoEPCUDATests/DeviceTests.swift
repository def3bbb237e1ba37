import AutoEPCore
import AutoEPSystem
import CCUDA
import FakeCUDA
import Testing

@testable import AutoEPCUDA

/// The device and its launches, on a driver that only records calls.
@Suite(.enabled(if: InstalledNVRTC.path != nil, Comment(rawValue: InstalledNVRTC.advice)))
struct DeviceTests {
  private let source = KernelSource(
    "fill.cu",
    Array(
      """
      #ifndef VALUE
      #define VALUE 1
      #endif
      extern "C" __global__ void fill(int *x) { x[threadIdx.x] = VALUE; }
      extern "C" __global__ void other(int *x) { *x = VALUE; }
      struct alignas(64) Map { char bytes[128]; };
      extern "C" __global__ void several(int *x, int *y, int a, long long b, float c) {
        *x = *y + a + b + c;
      }
      extern "C" __global__ void box(const __grid_constant__ Map map, int *x) {
        *x = map.bytes[3];
      }
      """.utf8), axes: [[[], KernelVariant.define("VALUE", 2)]])

  @Test("the properties of a device")
  func attributes() throws {
    let device = try FakeDevice().open(1)
    #expect(device.ordinal == 1)
    #expect(device.architecture.name == "sm_90a")
    #expect(device.processorCount == 132)
    #expect(device.sharedBytesPerBlock == 232_448)
  }

  @Test("a device that does not exist, and one that is too old")
  func noDevice() throws {
    let fake = try FakeDevice()
    for ordinal in [-1, 2, Int.max] {
      let error = #expect(throws: EngineError.self) { _ = try fake.open(ordinal) }
      #expect(error?.kind == .invalidArgument)
      #expect(error?.message.contains("CUDA device \(ordinal) does not exist") == true)
    }
    fake.state.pointee.computeMajor = 7
    let error = #expect(throws: EngineError.self) { _ = try fake.open() }
    #expect(error?.kind == .unsupported)
    #expect(error?.message.contains("sm_70") == true)
  }

  @Test("a launch: sizes, argument bits and the stream")
  func launch() throws {
    let fake = try FakeDevice()
    let device = try fake.open()
    let kernel = try device.kernel(source, "several")
    #expect(fake.state.pointee.maxDynamicSharedBytes == 232_448 - 1024)
    let stream = CUDAStream(UnsafeMutableRawPointer(bitPattern: 512))
    let view = TensorView(.device(DeviceAddress(4096)), shape: [2], dtype: .f32)
    let absent: TensorView? = nil
    try kernel.launch(
      grid: LaunchSize(3, 4, 5), block: 128, sharedBytes: 70_000, on: stream, view, absent,
      Int32(-7), Int64(1 << 40), Float(0.5))
    let config = fake.state.pointee.config
    #expect([config.grid_x, config.grid_y, config.grid_z] == [3, 4, 5])
    #expect([config.block_x, config.block_y, config.block_z] == [128, 1, 1])
    #expect(config.shared_bytes == 70_000)
    #expect(config.stream == OpaquePointer(bitPattern: 512))
    #expect(config.attribute_count == 0)
    #expect(fake.argument(0, as: UInt64.self) == 4096)
    #expect(fake.argument(1, as: UInt64.self) == 0)
    #expect(fake.argument(2, as: Int32.self) == -7)
    #expect(fake.argument(3, as: Int64.self) == 1 << 40)
    #expect(fake.argument(4, as: Float.self) == 0.5)
    #expect(fake.launches(of: "several") == 1)
  }

  @Test("arguments of other sizes are an error with the kernel's name and both lists")
  func wrongArguments() throws {
    let fake = try FakeDevice()
    let kernel = try fake.open().kernel(source, "several")
    let address = DeviceAddress(4096)
    func expectError(_ given: String, _ body: () throws -> Void) {
      let error = #expect(throws: EngineError.self) { try body() }
      #expect(error?.message.contains("several has arguments of \(given) bytes") == true)
      #expect(error?.message.contains("the kernel takes [8, 8, 4, 8, 4]") == true)
    }
    expectError("[8, 8, 4, 8]") {
      try kernel.launch(
        grid: 1, block: 32, on: CUDAStream(nil), address, address, Int32(1), Int64(1))
    }
    expectError("[8, 8, 8, 4, 4]") {
      try kernel.launch(
        grid: 1, block: 32, on: CUDAStream(nil), address, address, Int64(1), Int32(1), Float(1))
    }
    #expect(fake.state.pointee.launches == 0)
  }

  @Test("a launch restores the thread's context; a thread without one keeps the first device's")
  func contexts() throws {
    let fake = try FakeDevice()
    let kernel = try fake.open().kernel(source, "fill")
    let functions = fake.driver.functions
    func contextAfterALaunch(before: cuda_context?) throws -> cuda_context? {
      #expect(functions.ctxSetCurrent(before) == cuda_success)
      try kernel.launch(grid: 1, block: 32, on: CUDAStream(nil), Int64(1))
      var current: cuda_context?
      #expect(functions.ctxGetCurrent(&current) == cuda_success)
      return current
    }
    let other = cuda_context(bitPattern: 4096)
    #expect(try contextAfterALaunch(before: other) == other)
    let kept = try contextAfterALaunch(before: nil)
    #expect(kept != nil && kept != other)
    #expect(try contextAfterALaunch(before: kept) == kept)
    #expect(functions.ctxSetCurrent(nil) == cuda_success)
  }

  @Test("clusters, tensor maps and empty grids")
  func clusters() throws {
    let fake = try FakeDevice()
    let kernel = try fake.open().kernel(source, "box")
    let address = DeviceAddress(4096)
    let map = try TensorMap(
      fake.driver, at: DeviceAddress(1 << 20), dtype: .bf16, sizes: [64, 100], box: [64, 32],
      swizzle: .bytes128)
    try kernel.launch(
      grid: 8, block: 64, cluster: LaunchSize(2, 1), on: CUDAStream(nil), map, address)
    #expect(fake.state.pointee.attribute.id == cuda_launch_cluster_dimension)
    let value = fake.state.pointee.attribute.value
    #expect([value.x, value.y, value.z] == [2, 1, 1])
    let words = withUnsafeBytes(of: fake.argument(0, as: cuda_tensor_map.self)) {
      Array($0.bindMemory(to: UInt64.self))
    }
    // dtype, rank, address, swizzle, promotion; sizes; stride in bytes; box; strides of elements.
    #expect(words == [9, 2, 1 << 20, 3, 3, 64, 100, 0, 128, 0, 64, 32, 0, 1, 1, 0])
    try kernel.launch(grid: LaunchSize(4, 0), block: 64, on: CUDAStream(nil), map, address)
    #expect(fake.state.pointee.launches == 1)
    #expect(throws: EngineError.self) {
      try kernel.launch(grid: LaunchSize(1 << 40), block: 64, on: CUDAStream(nil), map, address)
    }
  }

  @Test("a variant is loaded once; unlisted variants and missing kernels are refused")
  func variants() throws {
    let fake = try FakeDevice()
    let device = try fake.open()
    for _ in 0..<3 {
      _ = try device.kernel(source, "fill")
      _ = try device.kernel(source, "other")
      _ = try device.kernel(source, "fill", KernelVariant.define("VALUE", 2))
    }
    #expect(fake.state.pointee.modulesLoaded == 2)
    for (name, defines) in [("fill", KernelVariant.define("VALUE", 3)), ("absent", [])] {
      let error = #expect(throws: EngineError.self) {
        _ = try device.kernel(source, name, defines)
      }
      #expect(error?.kind == .internal)
    }
    // A second process finds both images on disk, so nothing is compiled.
    let cache = KernelCache(folder: fake.folder.appending(path: "cache").path)
    let again = KernelCompiler(
      library: try TestCompiler.open(), cache: cache, driverVersion: 13000)
    let files = try Files.names(cache.folder)
    #expect(files.count == 2)
    _ = try again.image(of: source, [], for: device.architecture)
    #expect(try Files.names(cache.folder) == files)
    let newer = KernelCompiler(
      library: try TestCompiler.open(), cache: cache, driverVersion: 13010)
    _ = try newer.image(of: source, [], for: device.architecture)
    #expect(try Files.names(cache.folder).count == 3)
  }

  @Test("a driver failure is an error with the call and the kernel")
  func failures() throws {
    let fake = try FakeDevice()
    let kernel = try fake.open().kernel(source, "fill")
    for (code, kind) in [(Int32(2), EngineError.Kind.outOfMemory), (700, .internal)] {
      fake.state.pointee.failsLaunchWith = code
      let error = #expect(throws: EngineError.self) {
        try kernel.launch(grid: 1, block: 1, on: CUDAStream(nil), DeviceAddress(64))
      }
      #expect(error?.kind == kind)
      #expect(error?.message.contains("cuLaunchKernelEx of fill: CUDA_ERROR") == true)
    }
  }

  @Test("a fault reported by a kernel is thrown once", arguments: [UInt32(1), 2, 77])
  func faults(code: UInt32) throws {
    let fake = try FakeDevice()
    let backend = CUDABackend(try fake.open(), stream: nil)
    try backend.checkFaults()
    fake.state.pointee.hostMemory?.storeBytes(of: code, as: UInt32.self)
    let error = #expect(throws: EngineError.self) { try backend.checkFaults() }
    #expect(error?.kind == (code == 77 ? .internal : .invalidArgument))
    try backend.checkFaults()
  }
}
