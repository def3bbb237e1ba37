import AutoEPCore

extension BackendLaw {
  static let rowSumLaws = [
    BackendLaw("groupedRowSum: the weighted sum of each group's rows") { run in
      for (counts, width) in rowSumSizes {
        for kind in [LawGroups.Kind.counts32, .counts64, .offsets] {
          try sums(run, counts, width, kind)
        }
      }
    }
  ]
}

private let rowSumSizes: [([Int], Int)] = [
  ([1], 1), ([3, 0, 17, 1], 65), ([0, 0], 7), ([], 8), ([300, 0, 257], 264), ([3, 2], 1032),
]

private func sums(_ run: BackendRun, _ counts: [Int], _ width: Int, _ kind: LawGroups.Kind) throws {
  let groups = try LawGroups(run, counts, kind, spareRows: 3)
  let rows = try run.random([groups.capacity, width])
  let weights = try run.random([groups.capacity, 1], run.dtype.sumType)
  for weights in [nil, weights] {
    let expected = run.reference {
      PlainProducts.rowSums(rows.values, counts, width: width, weights: weights?.values)
    }
    for target in try GradientTargets(run, [counts.count, width]).all {
      for placed in run.placements(kind) {
        let sum = try run.tensor(target.start, target.shape, target.dtype)
        try run.backend.groupedRowSum(
          LawRows(run, placed: placed, rows).rows,
          weights: weights.map { try LawRows(run, placed: placed, $0).rows }, groups: groups.groups,
          into: sum.view, accumulate: target.accumulate)
        try run.expect(
          sum.view, expected.map { target.expected(sum.values, $0) },
          "width \(width), rows \(counts) as \(kind), weights \(weights != nil), into \(target.name),"
            + " placed \(placed)")
      }
    }
  }
}
