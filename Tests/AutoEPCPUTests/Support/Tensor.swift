import AutoEPCore

/// A tensor of a test, with values as Double. Its memory is never freed, because a view may outlive the last use of
/// the tensor.
@safe
final class Tensor {
  let view: TensorView
  private let memory: UnsafeMutableRawPointer

  /// Makes a tensor of NaN (integers: -77), so that tests notice unwritten elements.
  init(_ shape: [Int], _ dtype: DataType) {
    let byteCount = shape.reduce(1, *) * dtype.byteCount
    unsafe memory = UnsafeMutableRawPointer.allocate(byteCount: max(byteCount, 1), alignment: 64)
    view = unsafe TensorView(data: byteCount > 0 ? memory : nil, shape: shape, dtype: dtype)
    if dtype == .i32 || dtype == .i64 {
      values = Array(repeating: -77, count: view.elementCount)
    } else {
      unsafe memory.initializeMemory(as: UInt8.self, repeating: 0xff, count: byteCount)
    }
  }

  /// Makes a tensor of values, each rounded to the dtype.
  convenience init(_ values: [Double], _ shape: [Int], _ dtype: DataType) {
    self.init(shape, dtype)
    precondition(values.count == view.elementCount)
    self.values = values
  }

  /// Makes a tensor of integers.
  convenience init(integers: [Int], _ shape: [Int], _ dtype: DataType = .i32) {
    self.init(integers.map { Double($0) }, shape, dtype)
  }

  /// The elements.
  var values: [Double] {
    get {
      switch view.dtype {
      case .f32: unsafe elements(Float.self).map { Double($0) }
      case .f64: unsafe Array(elements(Double.self))
      case .bf16: unsafe elements(BFloat16.self).map { Double($0.float) }
      case .f16: unsafe elements(Float16.self).map { Double($0) }
      case .i32: unsafe elements(Int32.self).map { Double($0) }
      case .i64: unsafe elements(Int64.self).map { Double($0) }
      }
    }
    set { for index in newValue.indices { store(newValue[index], at: index) } }
  }

  /// The elements of an integer tensor.
  var integers: [Int] { values.map { Int($0) } }

  /// The bytes, for bitwise comparisons.
  var bytes: [UInt8] { unsafe Array(UnsafeRawBufferPointer(start: memory, count: view.byteCount)) }

  /// Part `number` of the tensor, which consists of consecutive parts of this shape.
  func part(_ number: Int, _ shape: [Int]) -> TensorView {
    let byteCount = shape.reduce(1, *) * view.dtype.byteCount
    precondition((number + 1) * byteCount <= view.byteCount)
    return unsafe TensorView(data: memory + number * byteCount, shape: shape, dtype: view.dtype)
  }

  /// The memory; no other thread may write to it meanwhile.
  @unsafe
  private func elements<Element>(_: Element.Type) -> UnsafeBufferPointer<Element> {
    unsafe UnsafeBufferPointer(
      start: memory.assumingMemoryBound(to: Element.self), count: view.elementCount)
  }

  private func store(_ value: Double, at index: Int) {
    let place = unsafe memory + index * view.dtype.byteCount
    switch view.dtype {
    case .f32: unsafe place.storeBytes(of: Float(value), as: Float.self)
    case .f64: unsafe place.storeBytes(of: value, as: Double.self)
    case .bf16: unsafe place.storeBytes(of: BFloat16(Float(value)), as: BFloat16.self)
    case .f16: unsafe place.storeBytes(of: Float16(value), as: Float16.self)
    case .i32: unsafe place.storeBytes(of: Int32(value), as: Int32.self)
    case .i64: unsafe place.storeBytes(of: Int64(value), as: Int64.self)
    }
  }
}
