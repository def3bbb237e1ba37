import AutoEPCore

extension BackendLaw {
  static let sortLaws = [
    BackendLaw("sort: stable, by expert", dependsOnType: false) { run in
      for (tokens, topK, experts) in sortSizes {
        let slots = tokens * topK
        try sorts(run, random(run, slots, experts), topK, experts)
        try sorts(run, Array(repeating: experts - 1, count: slots), topK, experts)
        try sorts(run, Array(repeating: -1, count: slots), topK, experts)
      }
    },
    BackendLaw("sort: outputs that are not wanted", dependsOnType: false) { run in
      let choice = random(run, 150, 9)
      let plain = PlainSort(choice, numExperts: 9)
      let rowOfSlot = try run.output([50, 3], .i32)
      var arena = try run.arena(run.backend.sortScratchBytes(numExperts: 9))
      try run.backend.sort(
        run.integers(choice, [50, 3]), numExperts: 9,
        into: SlotSort(offsets: nil, rowOfSlot: rowOfSlot, slotOfRow: nil, tokensPerExpert: nil),
        &arena)
      try run.expectExactly(rowOfSlot, plain.rowOfSlot.map { Double($0) }, "row_of_slot alone")
    },
    BackendLaw("sort: a choice that is no expert is refused", dependsOnType: false) { run in
      for (place, value) in [(3, 7), (0, -2), (5, Int(Int32.max)), (1, Int(Int32.min))] {
        var choice = [0, 2, 1, 6, 5, 0]
        choice[place] = value
        let rowOfSlot = try run.output([3, 2], .i32)
        var arena = try run.arena(run.backend.sortScratchBytes(numExperts: 7))
        let parts = ["\(value) at slot \(place)"]
        try run.expectBadData(rowOfSlot, saying: parts, "sort of \(value)") {
          try run.backend.sort(
            run.integers(choice, [3, 2]), numExperts: 7,
            into: SlotSort(
              offsets: run.output([8], .i32), rowOfSlot: rowOfSlot, slotOfRow: nil,
              tokensPerExpert: nil), &arena)
        }
      }
    },
  ]
}

/// Tokens, K, experts; the largest have more slots than a device sorts in one launch.
private let sortSizes = [
  (0, 2, 3), (1, 1, 1), (5, 3, 4), (65, 8, 17), (300, 2, 256), (700, 4, 37), (1500, 8, 130),
]

/// Random experts; every fifth slot has none.
private func random(_ run: BackendRun, _ slots: Int, _ experts: Int) -> [Int] {
  (0..<slots).map { _ in run.random.below(5) == 0 ? -1 : run.random.below(experts) }
}

private func sorts(_ run: BackendRun, _ choice: [Int], _ topK: Int, _ experts: Int) throws {
  let shape = [choice.count / topK, topK]
  let plain = PlainSort(choice, numExperts: experts)
  for dtype in [DataType.i32, .i64] {
    let sort = SlotSort(
      offsets: try run.output([experts + 1], .i32), rowOfSlot: try run.output(shape, .i32),
      slotOfRow: try run.output([choice.count], .i32),
      tokensPerExpert: try run.output([experts], .i32))
    var arena = try run.arena(run.backend.sortScratchBytes(numExperts: experts))
    try run.backend.sort(
      run.integers(choice, shape, dtype), numExperts: experts, into: sort, &arena)
    let place = "\(shape) \(dtype.name), E \(experts)"
    let parts = [
      ("expert_offsets", sort.offsets, plain.offsets),
      ("row_of_slot", sort.rowOfSlot, plain.rowOfSlot),
      ("slot_of_row", sort.slotOfRow, plain.slotOfRow),
      ("tokens_per_expert", sort.tokensPerExpert, plain.counts),
    ]
    for case let (name, tensor?, expected) in parts {
      try run.expectExactly(tensor, expected.map { Double($0) }, "\(name) of \(place)")
    }
  }
}
