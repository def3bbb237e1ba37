import AutoEPCore
import AutoEPSystem

extension CPUBackend {
  /// out [R,F] = activation of hidden [R,G].
  public func activate(
    _ configuration: ExpertsConfiguration, hidden: TensorView, groups: RowGroups,
    into out: TensorView
  ) throws(EngineError) {
    let rows = try GroupRanges(groups, groupCount: groups.count, rowCount: out.shape[0]).rowCount
    switch hidden.dtype {
    case .f32: activate(Float.self, configuration, hidden, rows, out)
    case .f64: activate(Double.self, configuration, hidden, rows, out)
    case .bf16: activate(BFloat16.self, configuration, hidden, rows, out)
    case .f16, .i32, .i64: throw Self.unsupported(hidden.dtype, by: "the activation")
    }
  }

  /// Computes the activation's gradient; each row is read completely before it is overwritten.
  public func activateBackward(
    _ configuration: ExpertsConfiguration, groups: RowGroups, _ call: ActivationGradient
  ) throws(EngineError) {
    let ranges = try GroupRanges(
      groups, groupCount: groups.count, rowCount: call.gradOut.shape[0])
    switch call.hidden.dtype {
    case .f32: activateBackward(Float.self, configuration, ranges, call)
    case .f64: activateBackward(Double.self, configuration, ranges, call)
    case .bf16: activateBackward(BFloat16.self, configuration, ranges, call)
    case .f16, .i32, .i64:
      throw Self.unsupported(call.hidden.dtype, by: "the activation's backward")
    }
  }

  private func activate<S: RowScalar>(
    _: S.Type, _ configuration: ExpertsConfiguration, _ hidden: TensorView, _ numRows: Int,
    _ out: TensorView
  ) {
    let activation = GatedActivation<S.Wide>(configuration)
    let hidden = HiddenRows<S>(hidden, gate: configuration.gate)
    let width = out.shape[1]
    let out = Elements<S>(out)
    forEachRow(of: numRows, width: width, configuration.gate) { (row, block: HiddenBlock<S.Wide>) in
      let (gate, up) = block.row(0)
      hidden.load(row, columns: 0..<width, gate: gate, up: up)
      activation.apply(block)
      out.row(row, width: width).store(gate)
    }
  }

  private func activateBackward<S: RowScalar>(
    _: S.Type, _ configuration: ExpertsConfiguration, _ groups: GroupRanges,
    _ call: ActivationGradient
  ) {
    let activation = GatedActivation<S.Wide>(configuration)
    let width = call.gradOut.shape[1]
    let hidden = HiddenRows<S>(call.hidden, gate: configuration.gate)
    let gradOut = Elements<S>(call.gradOut)
    let gradHidden = HiddenRows<S>(call.gradHidden, gate: configuration.gate)
    let activated = call.activated.map { Elements<S>($0) }
    let weights = call.rowWeights.map { IndexedRows<S.Wide>($0) }
    let dots = call.dots.map { IndexedRows<S.Wide>($0) }
    forEachRow(
      of: groups.rowCount, width: width, configuration.gate
    ) { (row, block: HiddenBlock<S.Wide>) in
      let (gate, up) = block.row(0)
      hidden.load(row, columns: 0..<width, gate: gate, up: up)
      gradOut.row(row, width: width).widen(into: block.gradOutRow(0))
      activation.differentiate(block)
      dots?[row][0] = S.Wide.innerProduct(block.gradOutRow(0), block.scratch[0..<width])
      if let weights { block.weigh(0, by: weights[row][0]) }
      gradHidden.store(row, columns: 0..<width, gate: gate, up: up)
      activated?.row(row, width: width).store(block.scratch)
    }
    guard let dots, let downBias = call.downBias, let gradRows = call.gradRows else { return }
    addBiasDots(IndexedRows<S>(gradRows), downBias, groups, dots)
  }

  /// dots[r,0] += ⟨gradRows[r], the bias of r's group⟩, for dots `[R,n]`.
  func addBiasDots<S: RowScalar>(
    _ gradRows: IndexedRows<S>, _ downBias: TensorView, _ groups: GroupRanges,
    _ dots: IndexedRows<S.Wide>
  ) {
    let width = gradRows.width
    let downBias = Elements<S>(downBias)
    pool.forEachItem(
      of: groups.ranges.count, multiplyAdds: Double(groups.rowCount) * Double(width)
    ) { group in
      let bias = downBias.row(group, width: width)
      for row in groups.ranges[group] { dots[row][0] += gradRows[row].dot(bias) }
    }
  }

  /// Calls `body` with each row's number and scratch memory for it.
  private func forEachRow<R: Real>(
    of numRows: Int, width: Int, _ gate: ExpertsConfiguration.Gate,
    _ body: @Sendable (Int, HiddenBlock<R>) -> Void
  ) {
    pool.forEachRange(of: numRows, grain: Self.grain(elementsPerItem: width * 4)) { range in
      workbenches.withWorkbench { bench in
        let block = HiddenBlock<R>(rows: 1, width: width, gate: gate, on: bench)
        for row in range { body(row, block) }
      }
    }
  }
}
