/// A kind of memory, and what can read it.
public enum MemorySpace: Sendable, Equatable {
  /// Memory of this process.
  case host
  /// Memory of the device of this number; the host only passes its addresses on.
  case device(Int)
}

/// An address in a device's memory. No code of the host can read there, so it is no pointer.
public struct DeviceAddress: Sendable, Hashable {
  /// The address as the device's driver has it; 0 is no address.
  public let bits: UInt64

  /// Wraps an address.
  public init(_ bits: UInt64) { self.bits = bits }

  /// The address some bytes further on.
  public static func + (address: DeviceAddress, byteCount: Int) -> DeviceAddress {
    DeviceAddress(address.bits &+ UInt64(truncatingIfNeeded: byteCount))
  }
}

/// Where a tensor or a buffer begins: a pointer of the host, or a device's address.
@safe
public enum Storage: @unchecked Sendable {
  case host(UnsafeMutableRawPointer?)
  case device(DeviceAddress)

  /// Memory of the host that is nowhere: for tensors without elements.
  public static var nowhere: Storage { unsafe .host(nil) }

  /// Whether there is no address.
  public var isNull: Bool {
    switch self {
    case .host(let pointer): unsafe pointer == nil
    case .device(let address): address.bits == 0
    }
  }

  /// The storage some bytes further on; nowhere stays nowhere.
  public func advanced(by byteCount: Int) -> Storage {
    switch self {
    case .host(let pointer): unsafe .host(pointer.map { unsafe $0 + byteCount })
    case .device(let address): .device(address.bits == 0 ? address : address + byteCount)
    }
  }

  /// The first address from here on that is a multiple of `alignment`.
  func aligned(to alignment: Int) -> Storage {
    let address: UInt64
    switch self {
    case .host(let pointer): address = UInt64(UInt(bitPattern: pointer))
    case .device(let device): address = device.bits
    }
    let unit = UInt64(alignment)
    return advanced(by: Int((unit - address % unit) % unit))
  }

  /// Whether the address is a multiple of `alignment`.
  public func isAligned(to alignment: Int) -> Bool {
    switch self {
    case .host(let pointer): UInt(bitPattern: pointer) % UInt(alignment) == 0
    case .device(let address): address.bits % UInt64(alignment) == 0
    }
  }
}
