import AutoEP
import CAutoEP
import Testing

/// The device that a call's tensors are described to be on.
enum Place {
  case cpu
  case cuda

  func put(_ tensor: inout autoep_tensor) {
    if self == .cuda { tensor.device_type = Int32(AUTOEP_DEVICE_CUDA) }
  }
}

/// A way to invalidate any tensor: a change, and a word that the message must contain.
struct Spoiling {
  let text: String
  let status: Int
  let change: (inout autoep_tensor) -> Void

  init(
    _ text: String, _ status: Int = AUTOEP_ERROR_INVALID_ARGUMENT,
    _ change: @escaping (inout autoep_tensor) -> Void
  ) {
    self.text = text
    self.status = status
    self.change = change
  }

  static func all(_ place: Place) -> [Spoiling] {
    anywhere + (place == .cpu ? onCPU : onCUDA)
  }

  nonisolated(unsafe) private static let anywhere = [
    Spoiling("dimensions") { $0.ndim = 7 },
    Spoiling("has -1 dim") { $0.ndim = -1 },
    Spoiling("has 1000000 dim") { $0.ndim = 1_000_000 },
    Spoiling("dtype") { $0.dtype = 77 },
    Spoiling("expected") { $0.dtype = wrong($0.dtype) },
    Spoiling("device type", AUTOEP_ERROR_UNSUPPORTED) { $0.device_type = 42 },
    Spoiling("data is NULL") { $0.data = nil },
    Spoiling("aligned") { $0.data += 1 },
    Spoiling("NULL") { $0.shape = nil },
    Spoiling("expected sizes from 0 up") { $0.shape = UnsafePointer(negative) },
    Spoiling("byte count overflows") { $0.shape = UnsafePointer(huge) },
    Spoiling("shape") { $0.shape = UnsafePointer(thirteens) },
    Spoiling("contiguous") { $0.strides = UnsafePointer(thirteens) },
  ]

  nonisolated(unsafe) private static let onCPU = [
    Spoiling("is on CUDA device 0; expected the CPU") {
      $0.device_type = Int32(AUTOEP_DEVICE_CUDA)
    }
  ]

  nonisolated(unsafe) private static let onCUDA = [
    Spoiling("is on the CPU; expected CUDA device 0") {
      $0.device_type = Int32(AUTOEP_DEVICE_CPU)
    },
    Spoiling("is on CUDA device 1; expected CUDA device 0") { $0.device_id = 1 },
  ]

  nonisolated(unsafe) private static let negative = numbers(-1)
  nonisolated(unsafe) private static let huge = numbers(Int64.max / 2)
  nonisolated(unsafe) private static let thirteens = numbers(13)

  private static func numbers(_ value: Int64) -> UnsafeMutablePointer<Int64> {
    let memory = UnsafeMutablePointer<Int64>.allocate(capacity: 8)
    memory.initialize(repeating: value, count: 8)
    return memory
  }

  private static func wrong(_ dtype: autoep_dtype) -> autoep_dtype {
    autoep_dtype(
      [AUTOEP_DTYPE_I32, AUTOEP_DTYPE_I64].contains(Int(dtype))
        ? AUTOEP_DTYPE_F32 : AUTOEP_DTYPE_I32)
  }

  /// Whether the function can detect the change: strides do not matter for a single element, and a call that takes any
  /// shape cannot know a wrong one.
  func applies(to argument: Call.Argument, of call: Call) -> Bool {
    switch text {
    case "contiguous": argument.shape != [1]
    case "dimensions": !call.takesAnyShape
    case "shape": call.bindsSize(of: argument)
    default: true
    }
  }
}

extension Call {
  /// Invalidates each tensor in every way, omits each, and expects an error.
  func spoilEachTensor(_ context: autoep_context, _ place: Place) throws {
    for (index, argument) in tensors.enumerated() {
      for way in Spoiling.all(place) where way.applies(to: argument, of: self) {
        expectFailure(way.status, argument.name, way.text) {
          try self(context) { tensors in
            for tensor in tensors { _ = tensor.describe(place.put) }
            _ = tensors[index].describe(way.change)
            return tensors.map(\.pointer)
          }
        }
      }
      if argument.isOptional { continue }
      expectFailure(AUTOEP_ERROR_INVALID_ARGUMENT, argument.name, "NULL") {
        try self(context) { tensors in
          tensors.enumerated().map {
            $0.offset == index ? nil : $0.element.describe(place.put).pointer
          }
        }
      }
    }
  }
}
