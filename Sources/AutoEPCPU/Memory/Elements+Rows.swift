import Glibc

extension Elements where Element: Scalar {
  /// Copies a row of the same length into this one.
  func copy(_ source: Elements) {
    guard let to = unsafe pointer, let from = unsafe source.pointer else { return }
    unsafe memcpy(to, from, count * MemoryLayout<Element>.stride)
  }

  /// Widens the elements into a buffer of the same length.
  func widen(into buffer: Elements<Element.Wide>) { Element.widen(self, into: buffer) }

  /// Rounds the first `count` sums into this row.
  func store(_ sums: Elements<Element.Wide>) { Element.round(sums[0..<count], into: self) }
}

extension Elements where Element: RowScalar {
  /// Sets this row to `factor` times a row of the same length.
  func setScaled(_ source: Elements, by factor: Element.Wide) {
    Element.scale(source, by: factor, into: self)
  }

  /// sums += factor · self.
  func addScaled(by factor: Element.Wide, to sums: Elements<Element.Wide>) {
    Element.addScaled(self, by: factor, to: sums)
  }

  /// The inner product with a row of the same length, summed in a fixed order.
  func dot(_ other: Elements) -> Element.Wide { Element.dot(self, other) }
}

extension Elements where Element: Real {
  /// The sum in a fixed order: 16 running sums, as many as a vector has lanes, are added at the end.
  func sum() -> Element {
    // For few values this gives the same sum at a tenth of the cost.
    guard count >= 16 else { return (0..<count).reduce(0) { $0 + self[$1] } }
    var sums = SIMD16<Element>(repeating: 0)
    let whole = count - count % 16
    for start in stride(from: 0, to: whole, by: 16) {
      for lane in 0..<16 { sums[lane] += self[start + lane] }
    }
    for index in whole..<count { sums[index - whole] += self[index] }
    return sums.indices.reduce(0) { $0 + sums[$1] }
  }

  /// Multiplies each element by `factor`.
  func scale(by factor: Element) { replace { $0 * factor } }

  /// Adds a row of at most this length.
  func add<S: Scalar>(_ row: Elements<S>) where S.Wide == Element {
    for index in 0..<row.count { self[index] += row[index].wide }
  }
}
