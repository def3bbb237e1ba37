import AutoEPCore
import AutoEPSystem
import CCUDA

/// The UUID of a GPU, which is the same in all processes of a host; ordinals may differ between them.
package struct DeviceUUID: Hashable, Sendable {
  /// The first and the second eight bytes.
  package let words: [UInt64]

  /// Wraps two words.
  package init(words: [UInt64]) { self.words = words }
}

extension CUDADevice {
  /// The UUID of the GPU.
  package func uuid() throws(EngineError) -> DeviceUUID { try driver.uuid(ordinal) }

  /// Whether kernels and copies of this GPU reach the memory of another. False if this process does not see it.
  package func reachesMemory(of other: DeviceUUID) throws(EngineError) -> Bool {
    for candidate in 0..<(try driver.deviceCount()) where try driver.uuid(candidate) == other {
      if candidate == ordinal { return true }
      var canAccess: Int32 = 0
      try driver.check(
        "cuDeviceCanAccessPeer",
        unsafe driver.functions.deviceCanAccessPeer(
          &canAccess, driver.device(ordinal), driver.device(candidate)))
      return canAccess != 0
    }
    return false
  }
}

extension CUDADriver {
  fileprivate func deviceCount() throws(EngineError) -> Int {
    var count: Int32 = 0
    try check("cuDeviceGetCount", unsafe functions.deviceGetCount(&count))
    return Int(count)
  }

  fileprivate func uuid(_ ordinal: Int) throws(EngineError) -> DeviceUUID {
    var uuid = cuda_uuid()
    try check("cuDeviceGetUuid", unsafe functions.deviceGetUUID(&uuid, device(ordinal)))
    return unsafe withUnsafeBytes(of: &uuid) { bytes in
      DeviceUUID(
        words: [0, 8].map { unsafe bytes.loadUnaligned(fromByteOffset: $0, as: UInt64.self) })
    }
  }
}
