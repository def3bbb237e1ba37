import AutoEPSystem
import CCUDA
import FakeCUDA
import Foundation
import Testing

@testable import AutoEPCUDA

/// A device of the driver of Tests/FakeDriver, which has no GPU: each has a driver of its own.
final class FakeDevice {
  /// As in fake_driver.c.
  struct State {
    var computeMajor: Int32
    var failsLaunchWith: Int32
    var modulesLoaded: Int32
    var launches: Int32
    var maxDynamicSharedBytes: Int32
    var contextSwitches: Int32
    var config: cuda_launch_config
    var attribute: cuda_launch_attribute
    var argumentCount: Int32
    var arguments: Arguments
    var argumentSizes: (UInt32, UInt32, UInt32, UInt32, UInt32, UInt32, UInt32, UInt32)
    var hostMemory: UnsafeMutableRawPointer?
  }

  typealias Argument = cuda_tensor_map
  typealias Arguments = (
    Argument, Argument, Argument, Argument, Argument, Argument, Argument, Argument
  )

  let driver: CUDADriver
  let state: UnsafeMutablePointer<State>
  private let library: FakeDriverLibrary
  var folder: URL { library.folder }

  init() throws {
    library = try FakeDriverLibrary()
    let getState: @convention(c) () -> UnsafeMutableRawPointer =
      try DynamicLibrary(opening: library.path).function("fake_driver")
    state = getState().assumingMemoryBound(to: State.self)
    driver = try CUDADriver(opening: library.path)
  }

  /// The device, with a cache in the folder.
  func open(_ ordinal: Int = 0) throws -> CUDADevice {
    try CUDADevice(
      ordinal, driver,
      KernelCompiler(
        library: TestCompiler.open(),
        cache: KernelCache(folder: folder.appending(path: "cache").path), driverVersion: 13000))
  }

  /// Says how many bytes each argument of the next launches has.
  func expect(_ sizes: UInt32...) {
    let all = sizes + Array(repeating: 0, count: 8 - sizes.count)
    state.pointee.argumentCount = Int32(sizes.count)
    state.pointee.argumentSizes = (
      all[0], all[1], all[2], all[3], all[4], all[5], all[6], all[7]
    )
  }

  /// The bits of an argument of the last launch.
  func argument<Bits>(_ index: Int, as type: Bits.Type) -> Bits {
    withUnsafeBytes(of: state.pointee.arguments) {
      $0.load(fromByteOffset: index * 128, as: type)
    }
  }
}

/// Names in folders.
enum Files {
  static func names(_ folder: String) throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: folder).sorted()
  }
}
