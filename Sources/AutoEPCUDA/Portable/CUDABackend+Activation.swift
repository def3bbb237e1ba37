import AutoEPCore

extension CUDABackend {
  /// out [N,F] = activation of hidden [N,G], for the rows in use.
  func activate(
    _ configuration: ExpertsConfiguration, hidden: TensorView, groups: DeviceGroups,
    into out: TensorView
  ) throws(EngineError) {
    try activate(configuration, hidden: hidden, rowsInUse: groups.rowsInUse, into: out)
  }

  /// The same for all rows.
  public func activate(
    _ configuration: ExpertsConfiguration, hidden: TensorView, into out: TensorView
  ) throws(EngineError) {
    try activate(configuration, hidden: hidden, rowsInUse: DeviceAddress(0), into: out)
  }

  private func activate(
    _ configuration: ExpertsConfiguration, hidden: TensorView, rowsInUse: DeviceAddress,
    into out: TensorView
  ) throws(EngineError) {
    let access = RowAccess(out, hidden)
    try kernel(.activate, "activate", access.defines + configuration.activationDefines).launch(
      grid: grid(rows: out.shape[0], vectors: access.count(out), perLane: 2), block: 256,
      on: stream, hidden, rowsInUse, out, Int32(out.shape[0]), Int32(access.count(out)),
      Float(configuration.swigluAlpha), Float(configuration.swigluLimit))
  }

  /// gradHidden [N,G] from gradOut [N,F], the gradient before the row's weight s (1 without
  /// `weights`); activated [N,F] = s · activation, which may be gradOut's memory; gradWeights [T,K] =
  /// ⟨gradOut, activation⟩, + ⟨gradRows, the expert's downBias⟩ where there is one.
  func activateBackward(
    _ configuration: ExpertsConfiguration, hidden: TensorView, gradOut: TensorView,
    routing: RoutingMetadata, weights: TensorView?, gradRows: TensorView, downBias: TensorView?,
    into gradHidden: TensorView, activated: TensorView?, gradWeights: TensorView?
  ) throws(EngineError) {
    let hasBias = downBias != nil && weights != nil
    let access = RowAccess(
      gradOut, hidden, gradHidden, activated, hasBias ? gradRows : nil, hasBias ? downBias : nil)
    try activateBackward(
      configuration, access, hidden: hidden, gradOut: gradOut,
      slotOfRow: routing.slotOfRow.address, weights: weights,
      offsets: routing.expertOffsets.address,
      bias: hasBias ? (gradRows, downBias, routing.expertOffsets.elementCount - 1) : nil,
      numExperts: routing.expertOffsets.elementCount - 1, into: gradHidden, activated: activated,
      gradWeights: gradWeights)
  }

  /// The same for all rows, without weights.
  public func activateBackward(
    _ configuration: ExpertsConfiguration, hidden: TensorView, gradOut: TensorView,
    into gradHidden: TensorView
  ) throws(EngineError) {
    try activateBackward(
      configuration, RowAccess(gradOut, hidden, gradHidden), hidden: hidden, gradOut: gradOut,
      slotOfRow: DeviceAddress(0), weights: nil, offsets: DeviceAddress(0), bias: nil,
      numExperts: 0, into: gradHidden, activated: nil, gradWeights: nil)
  }

  private func activateBackward(
    _ configuration: ExpertsConfiguration, _ access: RowAccess, hidden: TensorView,
    gradOut: TensorView, slotOfRow: DeviceAddress, weights: TensorView?, offsets: DeviceAddress,
    bias: (gradRows: TensorView, downBias: TensorView?, numExperts: Int)?, numExperts: Int,
    into gradHidden: TensorView, activated: TensorView?, gradWeights: TensorView?
  ) throws(EngineError) {
    let warps = 8
    let rows = gradOut.shape[0]
    try kernel(
      .activateBackward, "activate_backward",
      access.defines + configuration.activationDefines + weightDefines(weights)
        + ["DOWN_BIAS=\(bias == nil ? 0 : 1)"]
    ).launch(
      grid: LaunchSize(min(rows, device.processorCount * 12)), block: LaunchSize(32 * warps),
      sharedBytes: 4 * warps, on: stream, hidden, gradOut, slotOfRow, weights, offsets,
      bias?.gradRows, bias?.downBias, gradHidden, activated, gradWeights, Int32(rows),
      Int32(numExperts), Int32(access.count(gradOut)),
      Int32(bias.map { access.count($0.gradRows) } ?? 0), Float(configuration.swigluAlpha),
      Float(configuration.swigluLimit))
  }
}

extension ExpertsConfiguration {
  /// See activation.cuh.
  fileprivate var activationDefines: [String] {
    ["ACTIVATION=\(activation.rawValue)", "GATE=\(gate.rawValue)"]
  }
}

extension DeviceGroups {
  /// The number of rows in use, on the device; null for counts, which all rows follow.
  fileprivate var rowsInUse: DeviceAddress {
    switch self {
    case .offsets(let offsets): offsets.address + count * DataType.i32.byteCount
    case .counts: DeviceAddress(0)
    }
  }
}
