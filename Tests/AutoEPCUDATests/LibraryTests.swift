import AutoEPCore
import AutoEPSystem
import CCUDA
import Testing

@testable import AutoEPCUDA

@Suite struct MissingLibraryTests {
  @Test("no driver: the error names the library and what to do")
  func driver() {
    expectMissing("libcuda_absent.so.1", "driver", "CPU") {
      _ = try CUDADriver(opening: "libcuda_absent.so.1")
    }
  }

  @Test("a driver that is too old: the error names the missing function")
  func oldDriver() {
    expectMissing("cuInit", "CUDA 12.0") { _ = try CUDADriver(opening: "libc.so.6") }
  }

  @Test("no compiler at a given path: the error names the path and its source")
  func compiler() {
    expectMissing("/nowhere/libnvrtc.so", "AUTOEP_NVRTC") {
      _ = try NVRTCLibrary.find(environment: "/nowhere/libnvrtc.so", path: nil)
    }
    expectMissing("nvrtcGetErrorString", "AUTOEP_NVRTC", "libc.so.6") {
      _ = try NVRTCLibrary.find(environment: "libc.so.6", path: nil)
    }
  }

  private func expectMissing(
    _ texts: String..., sourceLocation: SourceLocation = #_sourceLocation,
    _ body: () throws -> Void
  ) {
    do {
      try body()
      Issue.record("no failure", sourceLocation: sourceLocation)
    } catch let error as EngineError {
      #expect(error.kind == .missingLibrary, sourceLocation: sourceLocation)
      for text in texts {
        #expect(error.message.contains(text), "\(error)", sourceLocation: sourceLocation)
      }
    } catch {
      Issue.record(error, sourceLocation: sourceLocation)
    }
  }
}

/// The layouts of the driver's structs in CUDA 12 and 13.
@Suite struct LayoutTests {
  @Test("sizes and offsets of fields")
  func layout() {
    #expect(MemoryLayout<cuda_launch_config>.size == 56)
    #expect(MemoryLayout<cuda_launch_config>.offset(of: \.shared_bytes) == 24)
    #expect(MemoryLayout<cuda_launch_config>.offset(of: \.stream) == 32)
    #expect(MemoryLayout<cuda_launch_config>.offset(of: \.attributes) == 40)
    #expect(MemoryLayout<cuda_launch_config>.offset(of: \.attribute_count) == 48)
    #expect(MemoryLayout<cuda_launch_attribute>.size == 72)
    #expect(MemoryLayout<cuda_launch_attribute>.offset(of: \.value) == 8)
    #expect(MemoryLayout<cuda_tensor_map>.size == 128)
  }
}
