extension Range<Int> {
  /// Splits the range into the fewest nearly equal parts of at most `most`; all but the last are multiples of `unit`.
  func parts(most: Int, unit: Int) -> [Range<Int>] {
    guard !isEmpty else { return [] }
    let units = (count - 1) / unit + 1
    let partCount = (units - 1) / Swift.max(most / unit, 1) + 1
    return (0..<partCount).map { part in
      let start = lowerBound + units * part / partCount * unit
      let end = lowerBound + units * (part + 1) / partCount * unit
      return start..<Swift.min(end, upperBound)
    }
  }
}

extension Range<Int> {
  /// Part `number` of `partCount` nearly equal parts.
  func part(_ number: Int, of partCount: Int) -> Range<Int> {
    lowerBound + count * number / partCount..<lowerBound + count * (number + 1) / partCount
  }

  /// Splits the range into parts of a size; the last may be shorter.
  func chunks(of size: Int) -> Chunks { Chunks(range: self, size: size) }
}

/// Consecutive parts of a range. Not an array: in the innermost loops, allocating one would cost more than the loop.
struct Chunks: RandomAccessCollection {
  fileprivate let range: Range<Int>
  fileprivate let size: Int

  var startIndex: Int { 0 }
  var endIndex: Int { (range.count + size - 1) / size }

  subscript(index: Int) -> Range<Int> {
    let first = range.lowerBound + index * size
    return first..<Swift.min(first + size, range.upperBound)
  }
}

extension Int {
  /// Rounds up to a multiple of a divisor.
  func roundedUp(to divisor: Int) -> Int { (self + divisor - 1) / divisor * divisor }
}
