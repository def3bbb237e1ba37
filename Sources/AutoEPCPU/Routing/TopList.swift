/// The indices of the highest values offered so far, in descending order of value. Equal values are kept in the order
/// in which they were offered.
struct TopList<R: Real> {
  private(set) var indices: [Int]
  private var values: [R]
  private var count = 0

  init(capacity: Int) {
    indices = Array(repeating: 0, count: capacity)
    values = Array(repeating: 0, count: capacity)
  }

  /// Removes all values.
  mutating func clear() { count = 0 }

  /// Offers the values of a range of indices, in ascending order of index.
  mutating func offer(_ offered: Elements<R>, of range: Range<Int>) {
    for index in range { offer(offered[index], at: index) }
  }

  /// Offers one value.
  @inline(__always)
  mutating func offer(_ value: R, at index: Int) {
    if count < values.count {
      count += 1
    } else if !(value > values[count - 1]) {
      return
    }
    var place = count - 1
    while place > 0, values[place - 1] < value {
      values[place] = values[place - 1]
      indices[place] = indices[place - 1]
      place -= 1
    }
    values[place] = value
    indices[place] = index
  }
}
