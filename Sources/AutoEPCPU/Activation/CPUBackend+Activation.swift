import AutoEPCore

extension CPUBackend {
  /// out [R,F] = activation of hidden [R,G].
  public func activate(
    _ configuration: ExpertsConfiguration, hidden: TensorView, into out: TensorView
  ) {
    switch hidden.dtype {
    case .f32: activate(configuration, HiddenRows<Float>(hidden, gate: configuration.gate), out)
    case .f64: activate(configuration, HiddenRows<Double>(hidden, gate: configuration.gate), out)
    case .bf16: activate(configuration, HiddenRows<BFloat16>(hidden, gate: configuration.gate), out)
    case .f16, .i32, .i64: assertionFailure("callers check the dtype")
    }
  }

  /// gradHidden [R,G] from gradOut [R,F]; a row is read whole before it is written.
  public func activateBackward(
    _ configuration: ExpertsConfiguration, hidden: TensorView, gradOut: TensorView,
    into gradHidden: TensorView
  ) {
    switch hidden.dtype {
    case .f32:
      activateBackward(
        configuration, HiddenRows<Float>(hidden, gate: configuration.gate), gradOut, gradHidden)
    case .f64:
      activateBackward(
        configuration, HiddenRows<Double>(hidden, gate: configuration.gate), gradOut, gradHidden)
    case .bf16:
      activateBackward(
        configuration, HiddenRows<BFloat16>(hidden, gate: configuration.gate), gradOut, gradHidden)
    case .f16, .i32, .i64: assertionFailure("callers check the dtype")
    }
  }

  private func activate<S: Scalar>(
    _ configuration: ExpertsConfiguration, _ hidden: HiddenRows<S>, _ out: TensorView
  ) {
    let activation = GatedActivation<S.Wide>(configuration)
    let (numRows, width) = (out.shape[0], out.shape[1])
    let out = Elements<S>(out)
    forEachRow(of: numRows, width: width, configuration.gate) { (row, block: HiddenBlock<S.Wide>) in
      let (gate, up) = block.row(0)
      hidden.load(row, columns: 0..<width, gate: gate, up: up)
      activation.apply(block)
      out.row(row, width: width).store(gate)
    }
  }

  private func activateBackward<S: Scalar>(
    _ configuration: ExpertsConfiguration, _ hidden: HiddenRows<S>, _ gradOut: TensorView,
    _ gradHidden: TensorView
  ) {
    let activation = GatedActivation<S.Wide>(configuration)
    let (numRows, width) = (gradOut.shape[0], gradOut.shape[1])
    let gradOut = Elements<S>(gradOut)
    let gradHidden = HiddenRows<S>(gradHidden, gate: configuration.gate)
    forEachRow(of: numRows, width: width, configuration.gate) { (row, block: HiddenBlock<S.Wide>) in
      let (gate, up) = block.row(0)
      hidden.load(row, columns: 0..<width, gate: gate, up: up)
      gradOut.row(row, width: width).widen(into: block.gradOutRow(0))
      activation.differentiate(block)
      gradHidden.store(row, columns: 0..<width, gate: gate, up: up)
    }
  }

  /// Calls `body` with the number of each row, and memory for it.
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
