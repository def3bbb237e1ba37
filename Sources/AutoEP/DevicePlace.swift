import CAutoEP

/// A device that holds tensors.
struct DevicePlace: Sendable, Equatable {
  /// The kinds of devices that contexts can be of; raw values are the C interface's.
  enum Kind: Int32, Sendable {
    case cpu = 1
    case cuda = 2
  }

  static let cpu = DevicePlace(type: .cpu, id: 0)

  let type: Kind
  let id: Int

  var name: String {
    switch type {
    case .cpu: "the CPU"
    case .cuda: "CUDA device \(id)"
    }
  }
}
