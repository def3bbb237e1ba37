import AutoEP
import CAutoEP
import FakeCUDA
import Foundation
import Testing

/// A context of a GPU that does not exist: its driver records launches and does nothing else. Compiled kernels go to
/// the user's cache.
final class FakeGPU: Sendable {
  /// One per process, which then uses the fake driver as the machine's.
  static let shared = Result { try FakeGPU() }

  let handle: autoep_context
  private let library: FakeDriverLibrary
  private let launchedName: @convention(c) (Int32) -> UnsafePointer<CChar>

  private init() throws {
    library = try FakeDriverLibrary(soname: "libcuda.so.1")
    let opened = try #require(dlopen(library.path, RTLD_NOW | RTLD_GLOBAL))
    launchedName = unsafeBitCast(
      try #require(dlsym(opened, "fake_driver_launched")),
      to: (@convention(c) (Int32) -> UnsafePointer<CChar>).self)
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

  /// The kernel that the calling thread launched `ago` launches before the last one.
  func launched(ago: Int32) -> String { String(cString: launchedName(ago)) }
}
