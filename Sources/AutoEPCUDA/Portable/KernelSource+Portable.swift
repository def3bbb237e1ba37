import AutoEPCore

extension KernelSource {
  private static let rowAxis = RowAccess.all.map(\.defines)
  private static let dotAxis = DataType.computed.map { weightDefines($0) }
  private static let weightAxis = [weightDefines(DataType?.none)] + dotAxis
  private static let activationAxis = (1...5).flatMap { activation in
    (1...3).filter { activation != 5 || $0 != 1 }.map {
      ["ACTIVATION=\(activation)", "GATE=\($0)"]
    }
  }
  private static let productAxis =
    [["ELEMENT=1", "ALIGNED=0"]]
    + [2, 3].flatMap { element in (0...1).map { ["ELEMENT=\(element)", "ALIGNED=\($0)"] } }

  private static let elementAxis = DataType.computed.map { ["ELEMENT=\($0.kernelCode)"] }
  private static let routerAxes = [elementAxis, [1, 2, 4, 8, 16, 32].map { ["PER_LANE=\($0)"] }]

  static let sortByExpert = KernelSource(
    "sort_by_expert.cu", axes: [[["INDEX_BYTES=4"], ["INDEX_BYTES=8"]]]
  ) { base() + [PackageResources.fault_cuh, PackageResources.sort_by_expert_cu] }

  static let permute = KernelSource(
    "permute.cu", axes: [rowAxis, weightAxis]
  ) { base() + [PackageResources.permute_cu] }

  static let unpermute = KernelSource(
    "unpermute.cu", axes: [rowAxis, weightAxis]
  ) { base() + [PackageResources.unpermute_cu] }

  static let slotDot = KernelSource(
    "slot_dot.cu", axes: [rowAxis, dotAxis]
  ) { base() + [PackageResources.slot_dot_cu] }

  static let gatherPartials = KernelSource("gather_partials.cu", axes: [dotAxis]) {
    base() + [PackageResources.gather_partials_cu]
  }

  static let rowWeights = KernelSource("row_weights.cu", axes: [dotAxis]) {
    base() + [PackageResources.row_weights_cu]
  }

  static let activate = KernelSource(
    "activate.cu", axes: [rowAxis, activationAxis]
  ) { base() + [PackageResources.activation_cuh, PackageResources.activate_cu] }

  static let activateBackward = KernelSource(
    "activate_backward.cu",
    axes: [
      rowAxis, activationAxis,
      [["WEIGHT=0", "DOWN_BIAS=0"]]
        + dotAxis.flatMap { weight in (0...1).map { weight + ["DOWN_BIAS=\($0)"] } },
    ]
  ) { base() + [PackageResources.activation_cuh, PackageResources.activate_backward_cu] }

  static let rowSum = KernelSource(
    "row_sum.cu",
    axes: [rowAxis, weightAxis, DeviceGroups.allDefines, allSumDefines]
  ) { base() + [PackageResources.groups_cuh, PackageResources.row_sum_cu] }

  static let portableGroupedGEMM = KernelSource(
    "portable_grouped_gemm.cu",
    axes: [productAxis, DeviceGroups.allDefines, [["LAYOUT=1"], ["LAYOUT=2"]]]
  ) { tiles() + [PackageResources.portable_grouped_gemm_cu] }

  static let portableWeightGradient = KernelSource(
    "portable_weight_gradient.cu",
    axes: [productAxis, DeviceGroups.allDefines, allSumDefines]
  ) { tiles() + [PackageResources.portable_weight_gradient_cu] }

  static let route = KernelSource("route.cu", axes: routerAxes) {
    base() + [
      PackageResources.fault_cuh, PackageResources.router_cuh, PackageResources.route_cu,
    ]
  }

  static let routeBackward = KernelSource("route_backward.cu", axes: routerAxes) {
    base() + [
      PackageResources.fault_cuh, PackageResources.router_cuh, PackageResources.route_backward_cu,
    ]
  }

  static let zLoss = KernelSource("z_loss.cu", axes: [elementAxis]) {
    base() + [PackageResources.z_loss_cu]
  }

  static let jitter = KernelSource("jitter.cu", axes: [elementAxis]) {
    base() + [PackageResources.jitter_cu]
  }

  /// What every portable kernel begins with.
  static func base() -> [[UInt8]] {
    [PackageResources.instructions_cuh, PackageResources.element_cuh]
  }

  private static func tiles() -> [[UInt8]] {
    base() + [
      PackageResources.operand_cuh, PackageResources.groups_cuh, PackageResources.f32_tile_cuh,
      PackageResources.tensor_core_tile_cuh,
    ]
  }
}
