import AutoEPSystem
import CCUDA
import FakeCUDA
import Foundation
import Testing

@testable import AutoEPCUDA

/// A device of the driver in Tests/FakeDriver, which has no GPU. Every object opens a driver of its own.
final class FakeDevice {
  /// The struct of fake_driver.c.
  struct State {
    var computeMajor: Int32
    var failsLaunchWith: Int32
    var modulesLoaded: Int32
    var launches: Int32
    var maxDynamicSharedBytes: Int32
    var contextSwitches: Int32
    var config: cuda_launch_config
    var attribute: cuda_launch_attribute
    var hostMemory: UnsafeMutableRawPointer?
  }

  let driver: CUDADriver
  let state: UnsafeMutablePointer<State>
  private let library: FakeDriverLibrary
  private let getArgument: @convention(c) (Int32) -> UnsafeRawPointer
  private let countLaunches: @convention(c) (UnsafePointer<CChar>) -> Int32
  var folder: URL { library.folder }

  init() throws {
    library = try FakeDriverLibrary()
    let functions = try DynamicLibrary(opening: library.path)
    let getState: @convention(c) () -> UnsafeMutableRawPointer =
      try functions.function("fake_driver")
    getArgument = try functions.function("fake_driver_argument")
    countLaunches = try functions.function("fake_driver_launches_of")
    state = getState().assumingMemoryBound(to: State.self)
    driver = try CUDADriver(opening: library.path)
  }

  /// Opens the device, with a cache in the folder.
  func open(_ ordinal: Int = 0) throws -> CUDADevice {
    try CUDADevice(
      ordinal, driver,
      KernelCompiler(
        library: TestCompiler.open(),
        cache: KernelCache(folder: folder.appending(path: "cache").path), driverVersion: 13000))
  }

  /// An argument of this thread's last launch, as the kernel would read it.
  func argument<Bits>(_ index: Int, as type: Bits.Type) -> Bits {
    getArgument(Int32(index)).load(as: type)
  }

  /// The number of launches of kernels with a name.
  func launches(of name: String) -> Int { Int(countLaunches(name)) }
}

/// The names of files in folders.
enum Files {
  static func names(_ folder: String) throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: folder).sorted()
  }
}
