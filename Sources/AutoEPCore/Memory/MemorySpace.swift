/// A kind of memory.
public enum MemorySpace: Sendable, Equatable {
  /// Host memory of this process.
  case host
  /// The memory of the device with this number; the host only passes its addresses on.
  case device(Int)
}

/// An address in a device's memory. It is not a pointer, because the host cannot dereference it.
public struct DeviceAddress: Sendable, Hashable {
  /// The driver's address; 0 is null.
  public let bits: UInt64

  /// Wraps an address.
  public init(_ bits: UInt64) { self.bits = bits }

  /// The address `byteCount` bytes further on.
  public static func + (address: DeviceAddress, byteCount: Int) -> DeviceAddress {
    DeviceAddress(address.bits &+ UInt64(truncatingIfNeeded: byteCount))
  }
}

/// The start of a tensor or a buffer: a host pointer, or a device address.
@safe
public enum Storage: @unchecked Sendable {
  case host(UnsafeMutableRawPointer?)
  case device(DeviceAddress)

  /// A null host pointer, for tensors without elements.
  public static var nowhere: Storage { unsafe .host(nil) }

  /// Whether the address is null.
  public var isNull: Bool {
    switch self {
    case .host(let pointer): unsafe pointer == nil
    case .device(let address): address.bits == 0
    }
  }

  /// The storage `byteCount` bytes further on; null stays null.
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
