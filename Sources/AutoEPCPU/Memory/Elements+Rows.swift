import Glibc

extension Elements where Element: Scalar {
  /// Copies a row of the same length.
  func copy(_ source: Elements) {
    guard let to = unsafe pointer, let from = unsafe source.pointer else { return }
    unsafe memcpy(to, from, count * MemoryLayout<Element>.stride)
  }

  /// Widens the elements into a buffer of the same length.
  func widen(into buffer: Elements<Element.Wide>) {
    for index in 0..<count { buffer[index] = self[index].wide }
  }

  /// Becomes a row of the same length, times a factor.
  func setScaled(_ source: Elements, by factor: Element.Wide) {
    for index in 0..<count { self[index] = Element(rounding: factor * source[index].wide) }
  }

  /// sum += factor · self.
  func addScaled(by factor: Element.Wide, to sum: inout [Element.Wide]) {
    for index in 0..<count { sum[index] += factor * self[index].wide }
  }

  /// Rounds the first of the sums into this row.
  func store(_ sums: Elements<Element.Wide>) {
    for index in 0..<count { self[index] = Element(rounding: sums[index]) }
  }
}

extension Elements where Element: RowScalar {
  /// The inner product with a row of the same length. The order of the sum is fixed: 16 running sums,
  /// which a vector unit holds, added up at the end.
  func dot(_ other: Elements) -> Element.Wide {
    var sums = SIMD16<Element.Wide>(repeating: 0)
    let whole = count - count % 16
    for start in stride(from: 0, to: whole, by: 16) {
      sums += wide16(at: start) * other.wide16(at: start)
    }
    for index in whole..<count { sums[index - whole] += self[index].wide * other[index].wide }
    return sums.indices.reduce(0) { $0 + sums[$1] }
  }

  private func wide16(at index: Int) -> SIMD16<Element.Wide> {
    guard let first = unsafe self[index..<index + 16].pointer else { return .init(repeating: 0) }
    return unsafe Element.wide16(at: UnsafeRawPointer(first))
  }
}

extension Elements where Element: Real {
  /// The sum. Its order is fixed: 16 running sums, which a vector unit holds, added up at the end.
  func sum() -> Element {
    var sums = SIMD16<Element>(repeating: 0)
    let whole = count - count % 16
    for start in stride(from: 0, to: whole, by: 16) {
      for lane in 0..<16 { sums[lane] += self[start + lane] }
    }
    for index in whole..<count { sums[index - whole] += self[index] }
    return sums.indices.reduce(0) { $0 + sums[$1] }
  }

  /// self += a row at most as long.
  func add<S: Scalar>(_ row: Elements<S>) where S.Wide == Element {
    for index in 0..<row.count { self[index] += row[index].wide }
  }
}
