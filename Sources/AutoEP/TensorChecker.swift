import AutoEPCore
import AutoEPSystem
import CAutoEP

/// Turns the tensors of one call into views, after checking all that a view promises. Dimensions
/// have names: the first tensor that has one binds it, and the others must agree.
struct TensorChecker {
  private struct Binding {
    let name: String
    let size: Int
    let source: String
  }

  private let signature: StaticString
  let place: DevicePlace
  /// Few: found faster one by one than by a hash.
  private var bindings: [Binding] = []

  /// A checker of a call that takes tensors of one device.
  init(at place: DevicePlace = .cpu, _ function: StaticString = #function) {
    signature = function
    self.place = place
    bindings.reserveCapacity(12)
  }

  /// A checker of a call on a context.
  init(on context: EngineContext, _ function: StaticString = #function) {
    self.init(at: context.place, function)
  }

  /// The call, for errors.
  private var function: String { String("\(signature)".prefix { $0 != "(" }) }

  /// Gives a dimension its size before any tensor does.
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

  /// A tensor that must be there.
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

  /// A tensor that may be NULL.
  mutating func optional(
    _ tensor: UnsafePointer<autoep_tensor>?, _ name: String, _ dimensions: [String],
    _ dtypes: [DataType]
  ) throws(EngineError) -> TensorView? {
    if unsafe tensor == nil { return nil }
    return try unsafe self.tensor(tensor, name, dimensions, dtypes)
  }

  /// A tensor of any shape with at least one dimension.
  func anyShape(
    _ tensor: UnsafePointer<autoep_tensor>?, _ name: String, _ dtypes: [DataType]
  ) throws(EngineError) -> TensorView {
    guard let tensor = unsafe tensor else { throw error(name, "is NULL; expected a tensor") }
    let view = try unsafe view(tensor.pointee, name, dtypes)
    guard !view.shape.isEmpty else { throw error(name, "has no dimension; expected at least 1") }
    return view
  }

  /// An error about an argument of this call.
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
          "has shape \(shape); expected \(expected) with \(dimension) = \(binding.size), as"
            + " \(binding.source) has it")
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
        throw error(name, "has no data, but shape \(shape); expected memory of its size")
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
    // The CPU is one device, whatever its number.
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
      throw error(name, "has shape \(shape); no size can be negative")
    }
    var byteCount = dtype.byteCount
    for size in shape where size > 0 {
      let product = byteCount.multipliedReportingOverflow(by: size)
      guard !product.overflow else {
        throw error(name, "has shape \(shape), which is more bytes than there can be")
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
