import AutoEPCore

/// Typed elements in borrowed memory. Indices are checked in debug builds.
///
/// Threads may share them as long as no thread writes an element that another uses: each step gives every thread
/// its own rows to write.
@safe
struct Elements<Element>: @unchecked Sendable {
  private let base: UnsafeMutablePointer<Element>?
  let count: Int

  init(base: UnsafeMutablePointer<Element>?, count: Int) {
    unsafe self.base = unsafe base
    self.count = count
  }

  /// All elements of a tensor whose dtype is Element's.
  init(_ tensor: TensorView) {
    unsafe base = unsafe tensor.hostPointer?.assumingMemoryBound(to: Element.self)
    count = tensor.elementCount
  }

  subscript(index: Int) -> Element {
    get {
      assert(index >= 0 && index < count)
      return unsafe base.unsafelyUnwrapped[index]
    }
    nonmutating set {
      assert(index >= 0 && index < count)
      unsafe base.unsafelyUnwrapped[index] = newValue
    }
  }

  /// The elements in a range.
  subscript(range: Range<Int>) -> Elements {
    assert(range.lowerBound >= 0 && range.upperBound <= count)
    return unsafe Elements(base: base.map { unsafe $0 + range.lowerBound }, count: range.count)
  }

  /// One row of a matrix with `width` columns.
  func row(_ index: Int, width: Int) -> Elements {
    self[index * width..<(index + 1) * width]
  }

  /// Consecutive rows of a matrix with `width` columns.
  func rows(_ range: Range<Int>, width: Int) -> Elements {
    self[range.lowerBound * width..<range.upperBound * width]
  }

  /// The address for C; nil only if there are no elements.
  var pointer: UnsafeMutablePointer<Element>? { unsafe base }

  /// Replaces each element by `function` of it.
  @inline(__always)
  func replace(_ function: (Element) -> Element) {
    for index in 0..<count { self[index] = function(self[index]) }
  }

  /// Sets every element.
  func fill(_ value: Element) {
    for index in 0..<count { self[index] = value }
  }
}

extension Elements where Element: Scalar {
  /// A copy in the sum type.
  func widened() -> [Element.Wide] { (0..<count).map { self[$0].wide } }

  /// Rounds each value into its place.
  func store(_ values: [Element.Wide]) {
    for index in 0..<count { self[index] = Element(rounding: values[index]) }
  }
}

extension Array where Element: Real {
  /// Makes an array of zeros that `body` fills, possibly from several threads.
  init(count: Int, filledBy body: (Elements<Element>) -> Void) {
    self.init(repeating: 0, count: count)
    withElements(body)
  }

  /// Lends the array's memory to `body`.
  mutating func withElements(_ body: (Elements<Element>) -> Void) {
    unsafe withUnsafeMutableBufferPointer { buffer in
      body(unsafe Elements(base: buffer.baseAddress, count: buffer.count))
    }
  }
}
