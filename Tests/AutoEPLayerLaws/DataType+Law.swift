import AutoEPCore

extension DataType {
  /// The error that a result may have against a reference in f64 which computes from the same inputs, by norm.
  ///
  /// - Parameter roundings: The number of times that a value of the result, or of its inputs, has been rounded to this
  ///   type. One rounding error of f32 sums is allowed in addition.
  func tolerance(roundings: Int = 1) -> Double {
    switch self {
    case .f64: 1e-12
    case .f32: 3e-6
    case .bf16: Double(roundings) * 0x1p-8 + 3e-6
    case .f16: Double(roundings) * 0x1p-11 + 3e-6
    case .i32, .i64: 0
    }
  }

  /// The value rounded to this type.
  func rounded(_ value: Double) -> Double {
    switch self {
    case .f64, .i32, .i64: value
    case .f32: Double(Float(value))
    case .bf16: Double(BFloat16(Float(value)).float)
    case .f16: Double(Float16(value))
    }
  }

  /// The values as elements of this type in memory.
  func bytes(of values: [Double]) -> [UInt8] {
    switch self {
    case .f64: memory(of: values)
    case .f32: memory(of: values.map { Float($0) })
    case .bf16: memory(of: values.map { BFloat16(Float($0)).bits })
    case .f16: memory(of: values.map { Float16($0).bitPattern })
    case .i32: memory(of: values.map { Int32($0) })
    case .i64: memory(of: values.map { Int64($0) })
    }
  }

  /// The values of elements of this type.
  func values(of bytes: [UInt8]) -> [Double] {
    switch self {
    case .f64: elements(bytes, Double.self)
    case .f32: elements(bytes, Float.self).map { Double($0) }
    case .bf16: elements(bytes, UInt16.self).map { Double(Float(bitPattern: UInt32($0) << 16)) }
    case .f16: elements(bytes, UInt16.self).map { Double(Float16(bitPattern: $0)) }
    case .i32: elements(bytes, Int32.self).map { Double($0) }
    case .i64: elements(bytes, Int64.self).map { Double($0) }
    }
  }
}

private func memory<Element: BitwiseCopyable>(of elements: [Element]) -> [UInt8] {
  elements.withUnsafeBytes { Array($0) }
}

private func elements<Element: BitwiseCopyable>(
  _ bytes: [UInt8], _ type: Element.Type
) -> [Element] {
  bytes.withUnsafeBytes { bytes in
    (0..<bytes.count / MemoryLayout<Element>.stride).map {
      bytes.loadUnaligned(fromByteOffset: $0 * MemoryLayout<Element>.stride, as: type)
    }
  }
}
