import AutoEP
import CAutoEP
import FakeCUDA
import Foundation
import Testing

/// A context of a GPU that is not there: its driver remembers launches and does nothing. What it
/// compiles goes to the user's cache, as from any program.
final class FakeGPU: Sendable {
  /// One a process, which then takes the fake for the machine's driver.
  static let shared = Result { try FakeGPU() }

  let handle: autoep_context
  private let library: FakeDriverLibrary

  private init() throws {
    library = try FakeDriverLibrary(soname: "libcuda.so.1")
    try #require(dlopen(library.path, RTLD_NOW | RTLD_GLOBAL) != nil)
    var handle: autoep_context = 0
    try (InstalledNVRTC.path ?? "").withCString { path in
      var config = autoep_context_config(
        struct_size: MemoryLayout<autoep_context_config>.size,
        device_type: Int32(AUTOEP_DEVICE_CUDA), device_id: 0, num_threads: 0, stream: nil,
        nvrtc_path: path)
      try call { autoep_context_create(&config, &handle, $0) }
    }
    self.handle = handle
  }
}
