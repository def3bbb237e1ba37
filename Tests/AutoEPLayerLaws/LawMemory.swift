import AutoEPCore
import Glibc

/// The memory that a backend computes in, as laws fill and read it. Threads may share one.
public protocol LawMemory: AnyObject, Sendable {
  /// New memory with a copy of these bytes, at a multiple of 256.
  func allocate(_ bytes: [UInt8]) throws -> Storage
  /// A copy of what is there once all work of the backend has ended.
  func bytes(at storage: Storage, count: Int) throws -> [UInt8]
  /// Frees what `allocate` gave.
  func free(_ storage: Storage)
}

/// Memory of this process.
public final class HostMemory: LawMemory {
  /// Makes one.
  public init() {}

  /// Copies the bytes.
  public func allocate(_ bytes: [UInt8]) throws -> Storage {
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 256)
    memory.copyBytes(from: bytes)
    return .host(memory.baseAddress)
  }

  /// Copies what is there.
  public func bytes(at storage: Storage, count: Int) throws -> [UInt8] {
    guard case .host(let pointer) = storage else {
      throw BrokenLaw(description: "the backend's memory is no memory of this process")
    }
    return Array(UnsafeRawBufferPointer(start: pointer, count: count))
  }

  /// Frees the memory.
  public func free(_ storage: Storage) {
    if case .host(let pointer) = storage { pointer?.deallocate() }
  }
}
