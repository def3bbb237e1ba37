import AutoEPCore

extension BackendLaw {
  static let rowValueLaws = [
    BackendLaw("scatterToRows: each slot's number at its row, other rows stay") { run in
      for dtype in weightTypes(run) {
        let map = try SlotRowMap(run, numTokens: 90, topK: 3, width: 1, spareRows: 2)
        let values = try map.weights(run, dtype)
        let rows = try run.tensor(
          Array(repeating: 7, count: map.rowCount), [map.rowCount, 1], run.dtype.sumType)
        try run.backend.scatterToRows(values.view, rowOfSlot: map.rowOfSlot, into: rows.view)
        var expected = [Double](repeating: 7, count: map.rowCount)
        for case let (slot, row?) in map.map.enumerated() { expected[row] = values.values[slot] }
        try run.expectExactly(rows.view, expected, "\(dtype.name) values")
      }
    },
    BackendLaw("gatherFromRows: the sum of a row's parts at its slot, 0 without a row") { run in
      for parts in [1, 3, 64, 70] {
        for dtype in weightTypes(run) {
          let map = try SlotRowMap(run, numTokens: 50, topK: 4, width: 1, spareRows: 1)
          let partials = try run.random([map.rowCount, parts], run.dtype.sumType)
          let values = try run.output([50, 4], dtype)
          try run.backend.gatherFromRows(partials.view, rowOfSlot: map.rowOfSlot, into: values)
          let sums = rowSums(partials.values, parts)
          try run.expect(
            values, map.map.map { row in row.map { sums[$0] } ?? 0 },
            "\(parts) parts, \(dtype.name)"
          )
        }
      }
    },
    BackendLaw("sumPartials: the sum of a row's parts") { run in
      for parts in [1, 3, 64, 70] {
        let partials = try run.random([77, parts], run.dtype.sumType)
        let sums = try run.output([77, 1], run.dtype.sumType)
        try run.backend.sumPartials(partials.view, into: sums)
        try run.expect(sums, rowSums(partials.values, parts), "\(parts) parts")
      }
      let alone = try run.random([77, 1], run.dtype.sumType)
      try run.backend.sumPartials(alone.view, into: alone.view)
      try run.expectExactly(alone.view, alone.values, "one part, in place")
    },
    BackendLaw("rowDot: the inner products of row pairs in use") { run in
      for width in [1, 17, 264] {
        let groups = try LawGroups(run, [5, 0, 60, 1], .offsets, spareRows: 4)
        let shape = [groups.capacity, width]
        let (left, right) = (try run.random(shape), try run.random(shape))
        let expected = plainDots(left.values, right.values, width: width).prefix(groups.inUse)
        for placed in run.backend.readsPlacedRows ? [false, true] : [false] {
          let products = try LawRows(run, placed: placed, [groups.capacity, 1], run.dtype.sumType)
          try run.backend.rowDot(
            LawRows(run, placed: placed, left).rows, ExpertRows(right.view),
            groups: groups.groups, into: products.rows)
          try products.expect(
            run, Array(expected), tolerance: run.dtype.sumType.tolerance(),
            "H \(width), placed \(placed)")
        }
      }
    },
  ]
}

private func weightTypes(_ run: BackendRun) -> [DataType] {
  run.dtype == .f64 ? [.f64, .f32] : [.f32, .bf16]
}

private func rowSums(_ partials: [Double], _ parts: Int) -> [Double] {
  (0..<partials.count / parts).map { row in
    partials[row * parts..<(row + 1) * parts].reduce(0, +)
  }
}
