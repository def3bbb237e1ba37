import AutoEPCore
import AutoEPSystem

extension BackendLaw {
  static let expertsLaws = [
    BackendLaw("expertsForward: as the loops, and as the composed steps") { run in
      for item in ExpertsCase.all(run) {
        try ExpertsForwardLaw(run, item).check()
      }
    },
    BackendLaw("expertsBackward: as the loops, and as the composed steps") { run in
      for item in ExpertsCase.all(run) {
        try ExpertsBackwardLaw(run, item).check()
      }
    },
    BackendLaw("gateUpGradient: the outer products of each expert's rows") { run in
      for item in ExpertsCase.all(run) {
        try checkGateUpGradient(run, item)
      }
    },
  ]
}

/// The experts' forward on one case.
private struct ExpertsForwardLaw {
  let run: BackendRun
  let data: ExpertsData
  let name: String

  init(_ run: BackendRun, _ item: ExpertsCase) throws {
    self.run = run
    data = try ExpertsData(
      run, item.configuration, choice: item.choice, hasBias: item.hasBias)
    name = item.name
  }

  func check() throws {
    let h = data.configuration.hiddenSize
    let rows = data.rows(data.x)
    let hidden = run.reference { data.plain.hidden(rows) }
    let results = hidden.map { data.plain.results(hidden: $0) }
    let shape = [data.capacity, h]
    let copies = try run.tensor(data.padded(rows, width: h), shape)
    for isComposed in [false, true] {
      let place = "\(isComposed ? "composed" : "own"), \(name)"
      let inputs = ExpertRows(data.x.view, .tokens(data.slots))
      try check(
        inputs, into: run.output(shape), isComposed, hidden, results, "tokens, \(place)")
      try check(
        ExpertRows(copies.view), into: run.output(shape), isComposed, hidden, results,
        "rows in order, \(place)")
      if isComposed { continue }
      let own = try run.tensor(copies.values, shape)
      try check(
        ExpertRows(own.view), into: own.view, isComposed, hidden, results, "in place, \(place)")
      if run.backend.readsPlacedRows {
        try checkPlaced(copies, isComposed, hidden, results, place)
      }
    }
  }

  private func checkPlaced(
    _ copies: LawTensor, _ isComposed: Bool, _ hidden: [Double]?, _ results: [Double]?,
    _ place: String
  ) throws {
    let placed = try LawRows(run, placed: true, copies)
    let out = try LawRows(run, placed: true, copies.view.shape, run.dtype)
    _ = try forward(placed.rows, out.rows, isComposed)
    try out.expect(
      run, results, tolerance: run.dtype.tolerance(roundings: 3), "placed rows, \(place)")
  }

  private func check(
    _ rows: ExpertRows, into results: TensorView, _ isComposed: Bool, _ expectedHidden: [Double]?,
    _ expectedResults: [Double]?, _ place: String
  ) throws {
    let hidden = try forward(rows, ExpertRows(results), isComposed)
    try run.expect(hidden, expectedHidden, "hidden of \(place)")
    // One rounding each for hidden, the activation and the result.
    try run.expect(results, expectedResults, roundings: 3, "results of \(place)")
  }

  private func forward(
    _ rows: ExpertRows, _ results: ExpertRows, _ isComposed: Bool
  ) throws -> TensorView {
    let configuration = data.configuration
    let hidden = try run.output([data.capacity, configuration.gateUpSize])
    if isComposed {
      var arena = try run.arena(
        Arena.footprint([data.capacity, configuration.ffnSize], configuration.dtype))
      try run.backend.composedExpertsForward(
        data.call(), rows: rows, hidden: hidden, into: results, &arena)
    } else {
      var arena = try run.arena(
        run.backend.expertsForwardBytes(configuration, rowsCapacity: data.capacity))
      try run.backend.expertsForward(
        data.call(), rows: rows, hidden: hidden, into: results, &arena)
    }
    return hidden
  }
}

private func checkGateUpGradient(_ run: BackendRun, _ item: ExpertsCase) throws {
  let configuration = item.configuration
  let data = try ExpertsData(
    run, configuration, choice: item.choice, hasBias: item.hasBias)
  let gradHidden = try run.random([data.capacity, configuration.gateUpSize])
  let rows = data.rows(data.x)
  let products = PlainProducts(
    counts: data.sort.counts, inSize: configuration.hiddenSize, outSize: configuration.gateUpSize)
  let expected = run.reference {
    products.weightGradient(gradHidden.values, rows, configuration.weightLayout)
  }
  let copies = try run.tensor(
    data.padded(rows, width: configuration.hiddenSize), [data.capacity, configuration.hiddenSize])
  for target in try GradientTargets(run, data.weights.gateUp.shape).all {
    for rows in [ExpertRows(data.x.view, .tokens(data.slots)), ExpertRows(copies.view)] {
      let room = run.backend.readsPlacedRows ? nil : try run.output(copies.view.shape)
      let sum = try run.tensor(target.start, target.shape, target.dtype)
      var arena = try run.arena(
        run.backend.gateUpGradientBytes(configuration, rowsCapacity: data.capacity))
      try run.backend.gateUpGradient(
        data.call(), rows: rows, room: room, gradHidden: gradHidden.view, into: sum.view,
        accumulate: target.accumulate, &arena)
      try run.expect(
        sum.view, expected.map { target.expected(sum.values, $0) },
        "into \(target.name), \(rows.placementName), \(item.name)")
    }
  }
}

extension ExpertRows {
  var placementName: String {
    switch placement {
    case .inOrder: "rows in order"
    case .indexed: "placed rows"
    case .tokens: "tokens"
    }
  }
}
