import CCUDA

/// A stream of a device, borrowed from the host.
@safe
struct CUDAStream: @unchecked Sendable {
  let handle: cuda_stream?

  /// A cudaStream_t or CUstream; nil for the device's default stream.
  init(_ stream: UnsafeMutableRawPointer?) { unsafe handle = OpaquePointer(stream) }

  /// The stream whose handle is this number.
  init(bits: UInt) { unsafe handle = OpaquePointer(bitPattern: bits) }

  /// The handle as a number, for what passes it on.
  var bits: UInt { unsafe UInt(bitPattern: handle) }
}
