import AutoEPCore

extension RowGroups {
  /// Groups with the given numbers of rows, as counts.
  init(counts: [Int], _ dtype: DataType = .i32) {
    self.init(.counts(Tensor(integers: counts, [counts.count], dtype).view))
  }

  /// Groups with the given numbers of rows, as offsets.
  init(offsetsOf counts: [Int]) {
    let ends = counts.reduce(into: [0]) { $0.append($0[$0.count - 1] + $1) }
    self.init(.offsets(Tensor(integers: ends, [ends.count]).view))
  }
}

extension Arena {
  /// An empty arena; the CPU backend's steps need no scratch memory.
  static var none: Arena { Arena(nil) }
}
