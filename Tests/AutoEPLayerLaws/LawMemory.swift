import AutoEPCore
import Glibc

/// Access to the memory that a backend computes in. Thread-safe.
public protocol LawMemory: AnyObject, Sendable {
  /// Allocates memory at a multiple of 256 and copies these bytes to it.
  func allocate(_ bytes: [UInt8]) throws -> Storage
  /// Waits for all work of the backend, and copies bytes from its memory.
  func bytes(at storage: Storage, count: Int) throws -> [UInt8]
  /// Frees memory of `allocate`.
  func free(_ storage: Storage)
}

/// Host memory.
public final class HostMemory: LawMemory {
  /// Makes an instance.
  public init() {}

  /// Allocates memory and copies these bytes to it.
  public func allocate(_ bytes: [UInt8]) throws -> Storage {
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 256)
    memory.copyBytes(from: bytes)
    return .host(memory.baseAddress)
  }

  /// Copies bytes.
  public func bytes(at storage: Storage, count: Int) throws -> [UInt8] {
    guard case .host(let pointer) = storage else {
      throw BrokenLaw(description: "the backend's memory is not host memory")
    }
    return Array(UnsafeRawBufferPointer(start: pointer, count: count))
  }

  /// Frees memory.
  public func free(_ storage: Storage) {
    if case .host(let pointer) = storage { pointer?.deallocate() }
  }
}
