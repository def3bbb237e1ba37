import AutoEPCore

extension CPUBackend {
  /// out [R,F] = activation of hidden [R,G].
  public func activate(
    _ configuration: ExpertsConfiguration, hidden: TensorView, into out: TensorView
  ) {
    switch hidden.dtype {
    case .f32: activate(configuration, Elements<Float>(hidden), out)
    case .f64: activate(configuration, Elements<Double>(hidden), out)
    case .bf16: activate(configuration, Elements<BFloat16>(hidden), out)
    case .f16, .i32, .i64: assertionFailure("callers check the dtype")
    }
  }

  /// gradHidden [R,G] from gradOut [R,F]; a row is read whole before it is written.
  public func activateBackward(
    _ configuration: ExpertsConfiguration, hidden: TensorView, gradOut: TensorView,
    into gradHidden: TensorView
  ) {
    switch hidden.dtype {
    case .f32: activateBackward(configuration, Elements<Float>(hidden), gradOut, gradHidden)
    case .f64: activateBackward(configuration, Elements<Double>(hidden), gradOut, gradHidden)
    case .bf16: activateBackward(configuration, Elements<BFloat16>(hidden), gradOut, gradHidden)
    case .f16, .i32, .i64: assertionFailure("callers check the dtype")
    }
  }

  private func activate<S: Scalar>(
    _ configuration: ExpertsConfiguration, _ hidden: Elements<S>, _ out: TensorView
  ) {
    let activation = GatedActivation<S.Wide>(configuration)
    let (numRows, width) = (out.shape[0], out.shape[1])
    let out = Elements<S>(out)
    forEachRow(of: numRows, width: width, configuration.gate) { (index, row: HiddenRow<S.Wide>) in
      row.load(hidden.row(index, width: row.hiddenWidth))
      activation.apply(row)
      out.row(index, width: width).store(row.gate)
    }
  }

  private func activateBackward<S: Scalar>(
    _ configuration: ExpertsConfiguration, _ hidden: Elements<S>, _ gradOut: TensorView,
    _ gradHidden: TensorView
  ) {
    let activation = GatedActivation<S.Wide>(configuration)
    let (numRows, width) = (gradOut.shape[0], gradOut.shape[1])
    let (gradOut, gradHidden) = (Elements<S>(gradOut), Elements<S>(gradHidden))
    forEachRow(of: numRows, width: width, configuration.gate) { (index, row: HiddenRow<S.Wide>) in
      row.load(hidden.row(index, width: row.hiddenWidth))
      gradOut.row(index, width: width).widen(into: row.gradOut)
      activation.differentiate(row)
      row.store(into: gradHidden.row(index, width: row.hiddenWidth))
    }
  }

  /// Calls `body` with the number of each row, and memory for it.
  private func forEachRow<R: Real>(
    of numRows: Int, width: Int, _ gate: ExpertsConfiguration.Gate,
    _ body: (Int, HiddenRow<R>) -> Void
  ) {
    pool.forEachRange(of: numRows, grain: Self.grain(elementsPerItem: width * 4)) { range in
      scratch.withMemory(byteCount: HiddenRow<R>.byteCount(width: width)) { memory in
        let row = HiddenRow<R>(gate: gate, width: width, memory)
        for index in range { body(index, row) }
      }
    }
  }
}
