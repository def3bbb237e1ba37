import AutoEPCore

extension BackendLaw {
  static let productLaws = [
    BackendLaw("groupedGEMM: rows times the weights of their groups") { run in
      for size in productSizes where run.hasLargeSizes || !size.isLarge {
        for layout in [WeightLayout.outIn, .inOut] { try multiplies(run, size, layout) }
      }
    },
    BackendLaw("groupedGEMMWeightGradient: the outer products of each group's rows") { run in
      for size in productSizes where run.hasLargeSizes || !size.isLarge {
        for layout in [WeightLayout.outIn, .inOut] { try differentiates(run, size, layout) }
      }
    },
  ]
}

/// Odd sizes, and sizes around the tiles of 128 and 256 rows and columns.
private let productSizes = [
  PlainProducts(counts: [1], inSize: 1, outSize: 1),
  PlainProducts(counts: [3, 0, 17, 1], inSize: 17, outSize: 65),
  PlainProducts(counts: [0, 0, 5, 0, 9, 0], inSize: 33, outSize: 31),
  PlainProducts(counts: [0, 0, 70, 0], inSize: 16, outSize: 48),
  PlainProducts(counts: [0, 0], inSize: 5, outSize: 7),
  PlainProducts(counts: [0, 0], inSize: 64, outSize: 128),
  PlainProducts(counts: [], inSize: 8, outSize: 16),
  PlainProducts(counts: [15, 2], inSize: 530, outSize: 5),
  PlainProducts(counts: [290], inSize: 3, outSize: 300),
  PlainProducts(counts: [127, 0, 129, 256], inSize: 264, outSize: 392),
  PlainProducts(counts: [1, 255, 257, 128], inSize: 512, outSize: 264),
  PlainProducts(counts: [300], inSize: 392, outSize: 512),
]

/// Rows after the last group.
private let spareRows = 5

extension PlainProducts {
  /// Whether trying all combinations would take long.
  fileprivate var isLarge: Bool { inSize * outSize > 50_000 }

  /// The kinds of bounds to try; for large products only those that select different kernels.
  fileprivate var kinds: [LawGroups.Kind] {
    isLarge ? [.counts64, .prepared] : LawGroups.Kind.allCases
  }

  func name(_ layout: WeightLayout, _ kind: LawGroups.Kind) -> String {
    "\(inSize) to \(outSize), \(layout), rows \(counts) as \(kind)"
  }

  func groups(_ run: BackendRun, _ kind: LawGroups.Kind) throws -> LawGroups {
    try LawGroups(run, counts, kind, spareRows: spareRows, widths: (inSize, outSize))
  }
}

private func multiplies(_ run: BackendRun, _ size: PlainProducts, _ layout: WeightLayout) throws {
  let weights = try run.random(size.weightShape(layout))
  let bias = try run.random([size.counts.count, size.outSize])
  let all = try run.random([size.numRows + spareRows, size.inSize])
  let plain = run.reference { size.product(all.values, weights.values, layout) }
  let withBias = plain.map { size.adding(bias.values, to: $0) }
  for kind in size.kinds {
    let groups = try size.groups(run, kind)
    let rows = all.first(groups.capacity)
    for (bias, expected) in [(nil, plain), (bias, withBias)] {
      for placed in run.placements(kind) {
        let out = try LawRows(run, placed: placed, [groups.capacity, size.outSize], run.dtype)
        try run.backend.groupedGEMM(
          LawRows(run, placed: placed, rows).rows, weights: weights.view, layout: layout,
          bias: bias?.view, groups: groups.groups, into: out.rows)
        try out.expect(
          run, expected, tolerance: run.dtype.tolerance(),
          "\(size.name(layout, kind)), bias \(bias != nil), placed \(placed)")
      }
    }
  }
}

private func differentiates(
  _ run: BackendRun, _ size: PlainProducts, _ layout: WeightLayout
) throws {
  let allRows = try run.random([size.numRows + spareRows, size.inSize])
  let allGradients = try run.random([size.numRows + spareRows, size.outSize])
  let expected = run.reference {
    size.weightGradient(allGradients.values, allRows.values, layout)
  }
  for kind in size.kinds {
    let groups = try size.groups(run, kind)
    let rows = allRows.first(groups.capacity)
    let gradOut = allGradients.first(groups.capacity)
    let targets = try GradientTargets(run, size.weightShape(layout)).all
    for target in size.isLarge && kind != .prepared ? Array(targets.prefix(1)) : targets {
      for placed in run.placements(kind) {
        // Each call accumulates into a fresh tensor.
        let sum = try run.tensor(target.start, target.shape, target.dtype)
        try run.backend.groupedGEMMWeightGradient(
          gradOut: LawRows(run, placed: placed, gradOut).rows,
          rows: LawRows(run, placed: placed, rows).rows, layout: layout, groups: groups.groups,
          into: sum.view, accumulate: target.accumulate)
        try run.expect(
          sum.view, expected.map { target.expected(sum.values, $0) },
          "\(size.name(layout, kind)), into \(target.name), placed \(placed)")
      }
    }
  }
}

/// The targets of a gradient: the rows' dtype or the sum type, overwritten or accumulated into.
struct GradientTargets {
  struct Target {
    let shape: [Int]
    let dtype: DataType
    let accumulate: Bool
    let start: [Double]

    var name: String { "\(dtype.name)\(accumulate ? ", added" : "")" }

    func expected(_ start: [Double], _ gradient: [Double]) -> [Double] {
      accumulate ? zip(start, gradient).map { $0 + $1 } : gradient
    }
  }

  let all: [Target]

  init(_ run: BackendRun, _ shape: [Int]) throws {
    let (dtype, sums) = (run.dtype, run.dtype.sumType)
    let count = shape.reduce(1, *)
    let unwritten = [Double](repeating: .nan, count: count)
    all = [
      Target(shape: shape, dtype: dtype, accumulate: false, start: unwritten),
      Target(shape: shape, dtype: sums, accumulate: false, start: unwritten),
      Target(shape: shape, dtype: sums, accumulate: true, start: run.random.values(count)),
    ].enumerated().filter { $0.offset != 1 || dtype != sums }.map(\.element)
  }
}

extension BackendRun {
  /// The placements to try: with counts, all rows must be in order.
  func placements(_ kind: LawGroups.Kind) -> [Bool] {
    backend.readsPlacedRows && kind == .offsets ? [false, true] : [false]
  }
}

extension PlainProducts {
  /// Adds the bias of each row's group to products.
  func adding(_ bias: [Double], to products: [Double]) -> [Double] {
    var result = products
    for (row, group) in groupOfRow.enumerated() {
      for column in 0..<outSize {
        result[row * outSize + column] += bias[group * outSize + column]
      }
    }
    return result
  }
}
