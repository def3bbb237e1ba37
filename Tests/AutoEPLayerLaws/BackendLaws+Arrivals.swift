import AutoEPCore

extension BackendLaw {
  static let arrivalLaws = [
    BackendLaw("arrivalPlaces: expert order among rows by source", dependsOnType: false) { run in
      for (ranks, experts) in [(1, 1), (1, 5), (2, 3), (3, 0), (4, 1), (8, 17), (7, 130)] {
        for most in [0, 1, 6, 400] { try checkPlaces(run, ranks, experts, most: most) }
      }
    },
    BackendLaw("store and numbers: what is stored is read", dependsOnType: false) { run in
      for count in [0, 1, 129] {
        let values = (0..<count).map { Int32($0 * $0 - 7) }
        let tensor = try run.output([count], .i32)
        try run.backend.store(values, in: tensor)
        try run.expectExactly(tensor, values.map { Double($0) }, "\(count) numbers stored")
        let read = try run.backend.numbers(of: tensor)
        run.record.expect(read == values, "\(count) numbers read: \(read), not \(values)")
      }
    },
  ]
}

/// Up to `most` rows from each rank to each expert.
private func checkPlaces(_ run: BackendRun, _ ranks: Int, _ experts: Int, most: Int) throws {
  let counts = (0..<ranks * experts).map { _ in run.random.below(most + 1) }
  let places = try run.output([counts.reduce(0, +)], .i32)
  try run.backend.arrivalPlaces(received: run.integers(counts, [ranks, experts]), into: places)
  // The expert of each row that arrives: a stable sort by it is expert order.
  let arriving = counts.enumerated().flatMap { pair, count in
    Array(repeating: pair % max(experts, 1), count: count)
  }
  let expected = PlainSort(arriving, numExperts: experts).slotOfRow
  try run.expectExactly(
    places, expected.map { Double($0) }, "\(ranks) ranks, \(experts) experts, up to \(most) rows")
}
