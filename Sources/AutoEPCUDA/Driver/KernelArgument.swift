import AutoEPCore
import CCUDA

/// A value that can be passed to a kernel, with its bits in the kernel's representation.
protocol KernelArgument {
  associatedtype Bits: BitwiseCopyable
  var bits: Bits { get }
  /// The alignment of the C++ type, whose `sizeof` includes the padding at its end.
  static var alignment: Int { get }
  // Declared as requirements so that the variadic launch calls a specialised witness instead of looking
  // up `Bits` at run time.
  static var byteCount: Int { get }
  @unsafe func store(at address: UnsafeMutableRawPointer)
}

extension KernelArgument {
  static var alignment: Int { MemoryLayout<Bits>.alignment }
  static var byteCount: Int {
    (MemoryLayout<Bits>.size + alignment - 1) / alignment * alignment
  }
  @unsafe func store(at address: UnsafeMutableRawPointer) {
    unsafe address.storeBytes(of: bits, as: Bits.self)
  }
}

extension DeviceAddress: KernelArgument {}

extension TensorView {
  /// The address of the first element; 0 for a tensor without elements.
  var address: DeviceAddress {
    guard case .device(let address) = storage else {
      assert(storage.isNull, "a kernel cannot reach the host's memory")
      return DeviceAddress(0)
    }
    return address
  }
}

extension TensorView: KernelArgument {
  /// The tensor's address.
  var bits: UInt64 { address.bits }
}

/// An optional tensor; nil is a null pointer.
extension Optional: KernelArgument where Wrapped == TensorView {
  var bits: UInt64 { self?.bits ?? 0 }
}

extension Int32: KernelArgument {
  var bits: Int32 { self }
}

extension UInt32: KernelArgument {
  var bits: UInt32 { self }
}

extension Int64: KernelArgument {
  var bits: Int64 { self }
}

extension UInt64: KernelArgument {
  var bits: UInt64 { self }
}

extension Float: KernelArgument {
  var bits: Float { self }
}

extension Double: KernelArgument {
  var bits: Double { self }
}
