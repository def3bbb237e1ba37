import AutoEPCore

extension RowGroups {
  /// Groups of so many rows each, told by their numbers.
  init(counts: [Int], _ dtype: DataType = .i32) {
    self.init(.counts(Tensor(integers: counts, [counts.count], dtype).view))
  }

  /// Groups of so many rows each, told by where they begin.
  init(offsetsOf counts: [Int]) {
    let ends = counts.reduce(into: [0]) { $0.append($0[$0.count - 1] + $1) }
    self.init(.offsets(Tensor(integers: ends, [ends.count]).view))
  }
}

extension Arena {
  /// No memory, which is what the CPU backend's steps take.
  static var none: Arena { Arena(nil) }
}
