import AutoEPCore
import AutoEPSystem
import CAutoEP

/// Checks the tensors of one call and turns them into views. Dimensions have names: the first tensor
/// with a name binds its size, and later ones must agree.
struct TensorChecker {
  private struct Binding {
    let name: String
    let size: Int
    let source: String
  }

  private let signature: StaticString
  let place: DevicePlace
  /// An array: for so few names a linear search is faster than hashing.
  private var bindings: [Binding] = []

  /// Makes a checker for a call that takes tensors of one device.
  init(at place: DevicePlace = .cpu, _ function: StaticString = #function) {
    signature = function
    self.place = place
    bindings.reserveCapacity(12)
  }

  /// Makes a checker for a call on a context.
  init(on context: EngineContext, _ function: StaticString = #function) {
    self.init(at: context.place, function)
  }

  /// The exported function's name, for error messages.
  private var function: String { String("\(signature)".prefix { $0 != "(" }) }

  /// Binds a dimension before any tensor does.
  mutating func bind(_ name: String, _ size: Int, from source: String) {
    let binding = Binding(name: name, size: size, source: source)
    if let index = bindings.firstIndex(where: { $0.name == name }) {
      bindings[index] = binding
    } else {
      bindings.append(binding)
    }
  }

  private func binding(_ name: String) -> Binding? { bindings.first { $0.name == name } }

  /// The size of a bound dimension.
  func size(_ name: String) throws(EngineError) -> Int {
    guard let binding = binding(name) else {
      throw EngineError(.internal, "\(function): dimension \(name) was never bound")
    }
    return binding.size
  }

  /// Checks a required tensor.
  mutating func tensor(
    _ tensor: UnsafePointer<autoep_tensor>?, _ name: String, _ dimensions: [String],
    _ dtypes: [DataType]
  ) throws(EngineError) -> TensorView {
    guard let tensor = unsafe tensor else {
      throw error(name, "is NULL; expected a tensor [\(dimensions.joined(separator: ","))]")
    }
    let view = try unsafe view(tensor.pointee, name, dtypes)
    try match(view.shape, name, dimensions)
    return view
  }

  /// Checks a tensor that may be NULL.
  mutating func optional(
    _ tensor: UnsafePointer<autoep_tensor>?, _ name: String, _ dimensions: [String],
    _ dtypes: [DataType]
  ) throws(EngineError) -> TensorView? {
    if unsafe tensor == nil { return nil }
    return try unsafe self.tensor(tensor, name, dimensions, dtypes)
  }

  /// Checks a tensor of any shape with at least one dimension.
  func anyShape(
    _ tensor: UnsafePointer<autoep_tensor>?, _ name: String, _ dtypes: [DataType]
  ) throws(EngineError) -> TensorView {
    guard let tensor = unsafe tensor else { throw error(name, "is NULL; expected a tensor") }
    let view = try unsafe view(tensor.pointee, name, dtypes)
    guard !view.shape.isEmpty else { throw error(name, "has no dimension; expected at least 1") }
    return view
  }

  /// Makes an error about an argument of this call.
  func error(
    _ name: String, _ text: String, _ kind: EngineError.Kind = .invalidArgument
  ) -> EngineError {
    EngineError(kind, "\(function): \(name) \(text)")
  }

  private mutating func match(
    _ shape: [Int], _ name: String, _ dimensions: [String]
  ) throws(EngineError) {
    var expected: String { "[\(dimensions.joined(separator: ","))]" }
    guard shape.count == dimensions.count else {
      throw error(
        name,
        "has shape \(shape), \(shape.count) dimensions; expected \(dimensions.count):"
          + " \(expected)")
    }
    for (dimension, size) in zip(dimensions, shape) {
      guard let binding = binding(dimension) else {
        bindings.append(Binding(name: dimension, size: size, source: name))
        continue
      }
      guard binding.size == size else {
        throw error(
          name,
          "has shape \(shape); expected \(expected) with \(dimension) = \(binding.size), as in"
            + " \(binding.source)")
      }
    }
  }

  private func view(
    _ tensor: autoep_tensor, _ name: String, _ dtypes: [DataType]
  ) throws(EngineError) -> TensorView {
    try unsafe checkDevice(tensor, name)
    let dtype = try unsafe dtype(tensor, name, dtypes)
    let shape = try unsafe shape(tensor, name, dtype)
    try unsafe checkDense(tensor, name, shape)
    let view = unsafe TensorView(place.storage(tensor.data), shape: shape, dtype: dtype)
    if view.elementCount > 0 {
      guard let data = unsafe tensor.data else {
        throw error(name, "has shape \(shape), but data is NULL; expected memory of that size")
      }
      guard UInt(bitPattern: data) % UInt(dtype.byteCount) == 0 else {
        throw error(name, "is not aligned to the \(dtype.byteCount) bytes of a \(dtype.name)")
      }
    }
    return view
  }

  private func checkDevice(_ tensor: autoep_tensor, _ name: String) throws(EngineError) {
    guard let type = unsafe DevicePlace.Kind(rawValue: tensor.device_type) else {
      throw unsafe error(
        name,
        "is on device type \(tensor.device_type); expected \(place.name), where this call computes:"
          + " move it there", .unsupported)
    }
    // All device numbers of the CPU denote the same memory.
    let given = DevicePlace(type: type, id: type == .cpu ? 0 : unsafe Int(tensor.device_id))
    guard given == place else {
      throw error(
        name,
        "is on \(given.name); expected \(place.name), where this call computes: move it there, or"
          + " use a context of \(given.name)")
    }
  }

  private func dtype(
    _ tensor: autoep_tensor, _ name: String, _ allowed: [DataType]
  ) throws(EngineError) -> DataType {
    var names: String { allowed.map(\.name).joined(separator: ", ") }
    guard let dtype = unsafe DataType(rawValue: tensor.dtype) else {
      throw unsafe error(name, "has the unknown dtype \(tensor.dtype); expected \(names)")
    }
    guard allowed.contains(dtype) else {
      throw error(name, "is \(dtype.name); expected \(names)")
    }
    return dtype
  }

  private func shape(
    _ tensor: autoep_tensor, _ name: String, _ dtype: DataType
  ) throws(EngineError) -> [Int] {
    let limit = 8
    let ndim = unsafe Int(tensor.ndim)
    guard (0...limit).contains(ndim) else {
      throw error(name, "has \(ndim) dimensions; expected 0 to \(limit)")
    }
    if ndim == 0 { return [] }
    guard let sizes = unsafe tensor.shape else {
      throw error(name, "has \(ndim) dimensions, but its shape is NULL")
    }
    let shape = (0..<ndim).map { unsafe Int(sizes[$0]) }
    guard shape.allSatisfy({ $0 >= 0 }) else {
      throw error(name, "has shape \(shape); expected sizes from 0 up")
    }
    var byteCount = dtype.byteCount
    for size in shape where size > 0 {
      let product = byteCount.multipliedReportingOverflow(by: size)
      guard !product.overflow else {
        throw error(name, "has shape \(shape), whose byte count overflows; expected less")
      }
      byteCount = product.partialValue
    }
    return shape
  }

  private func checkDense(
    _ tensor: autoep_tensor, _ name: String, _ shape: [Int]
  ) throws(EngineError) {
    guard let strides = unsafe tensor.strides, !shape.contains(0) else { return }
    var expected = 1
    for dimension in shape.indices.reversed() where shape[dimension] != 1 {
      guard unsafe Int(strides[dimension]) == expected else {
        let given = shape.indices.map { unsafe Int(strides[$0]) }
        throw error(
          name, "has shape \(shape) with strides \(given); expected dense rows: make it contiguous")
      }
      expected *= shape[dimension]
    }
  }
}
