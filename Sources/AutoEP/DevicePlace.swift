import AutoEPCore
import CAutoEP

/// A device that holds tensors.
struct DevicePlace: Sendable, Equatable {
  /// The kinds of devices that contexts run on; raw values are the C interface's.
  enum Kind: Int32, Sendable {
    case cpu = 1
    case cuda = 2
  }

  static let cpu = DevicePlace(type: .cpu, id: 0)

  let type: Kind
  let id: Int

  /// The memory of the device.
  var space: MemorySpace { type == .cpu ? .host : .device(id) }

  /// The storage at an address that a caller passed for this device.
  func storage(_ address: UnsafeMutableRawPointer?) -> Storage {
    type == .cpu
      ? unsafe .host(address) : .device(DeviceAddress(UInt64(UInt(bitPattern: address))))
  }

  /// The floating-point dtypes that tensors on this device may have.
  var floatTypes: [DataType] { type == .cpu ? [.f32, .f64, .bf16] : [.f32, .bf16, .f16] }

  var name: String {
    switch type {
    case .cpu: "the CPU"
    case .cuda: "CUDA device \(id)"
    }
  }
}
