import AutoEPCore

extension BackendLaw {
  static let permutationLaws = [
    BackendLaw("permute: each slot's row is its token, other rows stay") { run in
      try forEachMap(run) { map, weights in
        let rows = try run.tensor(
          Array(repeating: 7, count: map.rowCount * map.width), [map.rowCount, map.width])
        try run.backend.permute(
          map.x.view, rowOfSlot: map.rowOfSlot, weights: weights?.view, into: rows.view)
        try run.expect(rows.view, map.rows(weights?.values, elsewhere: 7), map.name(weights))
      }
    },
    BackendLaw("unpermute: the weighted sum of a token's rows") { run in
      try forEachMap(run) { map, weights in
        let rows = try run.random([map.rowCount, map.width])
        let y = try run.output([map.numTokens, map.width])
        try run.backend.unpermute(
          rows.view, rowOfSlot: map.rowOfSlot, weights: weights?.view, into: y)
        try run.expect(y, map.sums(rows.values, weights?.values), map.name(weights))
      }
    },
    BackendLaw("slotDot: the inner product of a token and each of its rows") { run in
      try forEachMap(run) { map, weights in
        let rows = try run.random([map.rowCount, map.width])
        let products = try run.output(
          [map.numTokens, map.topK], weights?.view.dtype ?? run.dtype.sumType)
        try run.backend.slotDot(
          map.x.view, rows.view, rowOfSlot: map.rowOfSlot, into: products)
        try run.expect(products, map.dots(rows.values), map.name(weights))
      }
    },
  ]
}

/// Tokens, K, width, and rows without a slot.
private let mapSizes = [
  (0, 2, 4, 0), (1, 1, 1, 0), (3, 2, 17, 1), (65, 3, 65, 0), (50, 8, 136, 7), (9, 10, 2056, 3),
]

private func forEachMap(
  _ run: BackendRun, _ body: (SlotRowMap, LawTensor?) throws -> Void
) throws {
  for (tokens, topK, width, spare) in mapSizes {
    let map = try SlotRowMap(run, numTokens: tokens, topK: topK, width: width, spareRows: spare)
    try body(map, nil)
    for dtype in run.dtype == .f64 ? [.f64, .f32] : [DataType.f32, .bf16] {
      try body(map, map.weights(run, dtype))
    }
  }
}

/// Tokens, and a random row for each of their slots. Every fourth slot has no row, and a weight of NaN.
struct SlotRowMap {
  let numTokens: Int
  let topK: Int
  let width: Int
  let rowCount: Int
  let x: LawTensor
  let rowOfSlot: TensorView
  /// The row of each slot; nil for a slot without one.
  let map: [Int?]

  init(_ run: BackendRun, numTokens: Int, topK: Int, width: Int, spareRows: Int) throws {
    (self.numTokens, self.topK, self.width) = (numTokens, topK, width)
    let slots = numTokens * topK
    let hasRow = (0..<slots).map { $0 % 4 != 3 }
    rowCount = hasRow.count { $0 } + spareRows
    var places = Array(0..<rowCount).shuffled(using: &run.random)
    map = hasRow.map { $0 ? places.removeLast() : nil }
    x = try run.random([numTokens, width])
    // Any index out of range counts as no row.
    let none = [-1, rowCount, Int(Int32.min), Int(Int32.max)]
    rowOfSlot = try run.integers(
      map.enumerated().map { $1 ?? none[$0 / 4 % none.count] }, [numTokens, topK])
  }

  func weights(_ run: BackendRun, _ dtype: DataType) throws -> LawTensor {
    let values = zip(run.random.values(map.count), map).map { $1 == nil ? .nan : $0 }
    return try run.tensor(values, [numTokens, topK], dtype)
  }

  func name(_ weights: LawTensor?) -> String {
    "T \(numTokens), K \(topK), H \(width), R \(rowCount), \(weights?.view.dtype.name ?? "no") weights"
  }

  func rows(_ weights: [Double]?, elsewhere: Double) -> [Double] {
    var result = [Double](repeating: elsewhere, count: rowCount * width)
    forEachRow { slot, row in
      for column in 0..<width {
        result[row * width + column] = (weights?[slot] ?? 1) * token(slot)[column]
      }
    }
    return result
  }

  func sums(_ rows: [Double], _ weights: [Double]?) -> [Double] {
    var result = [Double](repeating: 0, count: numTokens * width)
    forEachRow { slot, row in
      for column in 0..<width {
        result[slot / topK * width + column] += (weights?[slot] ?? 1) * rows[row * width + column]
      }
    }
    return result
  }

  func dots(_ rows: [Double]) -> [Double] {
    var result = [Double](repeating: 0, count: map.count)
    forEachRow { slot, row in
      let token = token(slot)
      result[slot] = (0..<width).reduce(0) { $0 + token[$1] * rows[row * width + $1] }
    }
    return result
  }

  private func token(_ slot: Int) -> [Double] {
    Array(x.values[slot / topK * width..<(slot / topK + 1) * width])
  }

  private func forEachRow(_ body: (Int, Int) -> Void) {
    for case let (slot, row?) in map.enumerated() { body(slot, row) }
  }
}
