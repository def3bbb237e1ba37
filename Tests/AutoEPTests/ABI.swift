import AutoEP
import CAutoEP
import Testing

/// A tensor whose memory lives as long as the object.
final class TestTensor {
  let shape: [Int]
  let dtype: autoep_dtype
  private let memory: UnsafeMutableRawPointer
  private let dimensions: UnsafeMutablePointer<Int64>
  private let box: UnsafeMutablePointer<autoep_tensor>

  var pointer: UnsafePointer<autoep_tensor> { UnsafePointer(box) }
  var count: Int { shape.reduce(1, *) }

  init(_ shape: [Int], _ dtype: Int, _ values: [Double]? = nil) {
    self.shape = shape
    self.dtype = autoep_dtype(dtype)
    let count = shape.reduce(1, *)
    memory = .allocate(byteCount: max(count, 1) * 8, alignment: 64)
    // Makes elements that a function does not write visible.
    memory.initializeMemory(as: UInt8.self, repeating: 0xFF, count: max(count, 1) * 8)
    // Eight, so that a test can claim more dimensions than the tensor has.
    dimensions = .allocate(capacity: 8)
    dimensions.initialize(repeating: 1, count: 8)
    for (index, size) in shape.enumerated() { dimensions[index] = Int64(size) }
    box = .allocate(capacity: 1)
    box.initialize(
      to: autoep_tensor(
        data: memory, shape: dimensions, strides: nil, ndim: Int32(shape.count),
        dtype: self.dtype, device_type: Int32(AUTOEP_DEVICE_CPU), device_id: 0))
    if let values { set(values) }
  }

  deinit {
    memory.deallocate()
    dimensions.deallocate()
    box.deallocate()
  }

  func set(_ values: [Double]) {
    precondition(values.count == count)
    for (index, value) in values.enumerated() {
      switch Int(dtype) {
      case AUTOEP_DTYPE_F64: memory.storeBytes(of: value, toByteOffset: index * 8, as: Double.self)
      case AUTOEP_DTYPE_F32:
        memory.storeBytes(of: Float(value), toByteOffset: index * 4, as: Float.self)
      case AUTOEP_DTYPE_I32:
        memory.storeBytes(of: Int32(value), toByteOffset: index * 4, as: Int32.self)
      case AUTOEP_DTYPE_I64:
        memory.storeBytes(of: Int64(value), toByteOffset: index * 8, as: Int64.self)
      default: fatalError("dtype \(dtype) has no test values")
      }
    }
  }

  var values: [Double] {
    (0..<count).map { index in
      switch Int(dtype) {
      case AUTOEP_DTYPE_F64: memory.load(fromByteOffset: index * 8, as: Double.self)
      case AUTOEP_DTYPE_F32: Double(memory.load(fromByteOffset: index * 4, as: Float.self))
      case AUTOEP_DTYPE_I32: Double(memory.load(fromByteOffset: index * 4, as: Int32.self))
      case AUTOEP_DTYPE_I64: Double(memory.load(fromByteOffset: index * 8, as: Int64.self))
      default: fatalError("dtype \(dtype) has no test values")
      }
    }
  }

  /// Changes the description passed to a function, but not the memory.
  func describe(_ change: (inout autoep_tensor) -> Void) -> TestTensor {
    change(&box.pointee)
    return self
  }
}

/// A failure that a function reported.
struct ABIError: Error, CustomStringConvertible {
  let status: autoep_status
  let message: String
  var step = ""
  var ranks: [Int32] = []
  var description: String { "\(String(cString: autoep_status_name(status))): \(message)" }
}

/// Calls a function with its own error struct, and throws the error that it reports.
func call(_ body: (UnsafeMutablePointer<autoep_error>) -> autoep_status) throws {
  var error = autoep_error()
  error.struct_size = MemoryLayout<autoep_error>.size
  let status = body(&error)
  guard status != AUTOEP_OK else { return }
  #expect(error.status == status)
  throw ABIError(error)
}

extension ABIError {
  /// Reads a failure that a function has written.
  init(_ error: autoep_error) {
    status = error.status
    message = withUnsafeBytes(of: error.message, text)
    step = withUnsafeBytes(of: error.step, text)
    ranks = withUnsafeBytes(of: error.ranks) { bytes in
      Array(bytes.bindMemory(to: Int32.self).prefix(Int(error.num_ranks)))
    }
  }
}

/// The characters before the terminating NUL.
private func text(_ bytes: UnsafeRawBufferPointer) -> String {
  String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
}

/// Sets the size of a struct, and then its other fields.
func sized<Struct: BitwiseCopyable>(_ empty: Struct, _ set: (inout Struct) -> Void = { _ in })
  -> Struct
{
  var result = empty
  set(&result)
  withUnsafeMutableBytes(of: &result) {
    $0.storeBytes(of: MemoryLayout<Struct>.size, as: Int.self)
  }
  return result
}

/// Expects a failure with this status whose message contains all `texts`.
func expectFailure(
  _ status: Int, _ texts: String..., sourceLocation: SourceLocation = #_sourceLocation,
  _ body: () throws -> Void
) {
  do {
    try body()
    Issue.record("no failure", sourceLocation: sourceLocation)
  } catch let error as ABIError {
    #expect(error.status == autoep_status(status), sourceLocation: sourceLocation)
    for text in texts {
      #expect(error.message.contains(text), sourceLocation: sourceLocation)
    }
  } catch {
    Issue.record(error, sourceLocation: sourceLocation)
  }
}

/// A context, freed with the object.
final class TestContext: Sendable {
  let handle: autoep_context

  init(threads: Int32 = 2) throws {
    var config = autoep_context_config(
      struct_size: MemoryLayout<autoep_context_config>.size,
      device_type: Int32(AUTOEP_DEVICE_CPU), device_id: 0, num_threads: threads, stream: nil,
      nvrtc_path: nil)
    var handle: autoep_context = 0
    try call { autoep_context_create(&config, &handle, $0) }
    self.handle = handle
  }

  deinit { _ = autoep_context_free(handle, nil) }
}

/// ‖a - b‖ / max(‖b‖, floor).
func distance(_ a: [Double], _ b: [Double], floor: Double = 0) -> Double {
  precondition(a.count == b.count)
  let difference = zip(a, b).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) }.squareRoot()
  let norm = max(b.reduce(0) { $0 + $1 * $1 }.squareRoot(), floor)
  return difference == 0 ? 0 : difference / norm
}

/// Pseudo-random numbers, the same on every machine.
struct TestNumbers {
  private var state: UInt64

  init(seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 | 1 }

  mutating func next() -> UInt64 {
    state ^= state << 13
    state ^= state >> 7
    state ^= state << 17
    return state
  }

  /// Draws a number in [-1, 1).
  mutating func uniform() -> Double { Double(next() >> 11) / Double(1 << 52) - 1 }
  mutating func uniform(_ count: Int) -> [Double] { (0..<count).map { _ in uniform() } }
  mutating func below(_ limit: Int) -> Int { Int(next() >> 1) % limit }
}
