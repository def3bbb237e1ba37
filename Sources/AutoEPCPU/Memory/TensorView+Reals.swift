import AutoEPCore
import AutoEPSystem

extension TensorView {
  /// A copy of a small float tensor in the type of the caller's computation.
  func reals<R: Real>(_: R.Type) -> [R] {
    switch dtype {
    case .f32: Elements<Float>(self).widened().map { R($0) }
    case .f64: Elements<Double>(self).widened().map { R($0) }
    case .bf16: Elements<BFloat16>(self).widened().map { R($0) }
    case .f16: Elements<Float16>(self).widened().map { R($0) }
    case .i32, .i64: []
    }
  }

  /// Rounds values into a small float tensor.
  func store<R: Real>(_ values: [R]) {
    switch dtype {
    case .f32: Elements<Float>(self).store(values.map { Float($0) })
    case .f64: Elements<Double>(self).store(values.map { Double($0) })
    case .bf16: Elements<BFloat16>(self).store(values.map { Float($0) })
    case .f16: Elements<Float16>(self).store(values.map { Float($0) })
    case .i32, .i64: assertionFailure("a float tensor is expected")
    }
  }

  /// A copy of an integer tensor.
  func integers() throws(EngineError) -> [Int] {
    switch dtype {
    case .i32:
      let elements = Elements<Int32>(self)
      return (0..<elements.count).map { Int(elements[$0]) }
    case .i64:
      let elements = Elements<Int64>(self)
      return (0..<elements.count).map { Int(elements[$0]) }
    case .f32, .f64, .bf16, .f16:
      throw EngineError(
        .unsupported, "indices must be int32 or int64, but their dtype is \(dtype.name)")
    }
  }

  /// Writes counts to an integer tensor, whose type can hold them.
  func store(integers: [Int]) {
    switch dtype {
    case .i32:
      let elements = Elements<Int32>(self)
      for index in integers.indices { elements[index] = Int32(truncatingIfNeeded: integers[index]) }
    case .i64:
      let elements = Elements<Int64>(self)
      for index in integers.indices { elements[index] = Int64(integers[index]) }
    case .f32, .f64, .bf16, .f16: assertionFailure("an integer tensor is expected")
    }
  }
}

extension [Int64] {
  /// Lends the numbers to `body` as a tensor [n].
  mutating func withTensor(
    _ body: (TensorView) throws(EngineError) -> Void
  ) throws(EngineError) {
    let count = self.count
    try unsafe withUnsafeMutableBufferPointer { buffer throws(EngineError) in
      try body(unsafe TensorView(data: buffer.baseAddress, shape: [count], dtype: .i64))
    }
  }
}
