import AutoEPCore
import AutoEPSystem
import CKernels

extension KernelSource {
  static let routerLogits = KernelSource(
    "router_logits.cu", PackageResources.router_logits_cu,
    axes: [RouterProduct.operands, KernelVariant.each("COLUMNS", RouterProduct.columns)])

  static let route = KernelSource(
    "route.cu", PackageResources.route_cu, axes: RouterLaunch.axes)

  static let routeBackward = KernelSource(
    "route_backward.cu", PackageResources.route_backward_cu, axes: RouterLaunch.axes)
}

extension CUDABackend {
  /// logits = x · routerᵀ.
  public func routerLogits(
    _ x: TensorView, router: TensorView, into logits: TensorView
  ) throws(EngineError) {
    let product = try RouterProduct(x, router)
    try kernel(.routerLogits, "router_logits", product.defines).launch(
      grid: product.grid, block: RouterProduct.block, sharedBytes: product.sharedBytes,
      on: stream, x, router, logits, Int64(x.shape[0]), kernelInt(router.shape[0], "E"),
      Int64(x.shape[1]))
  }

  /// Chooses K experts per token. A token with invalid logits is routed as if they were zeros; the next call throws.
  public func route(
    _ configuration: RouteConfiguration, logits: TensorView, selectionBias: TensorView?,
    topkIdx: TensorView, topkWeights: TensorView, tokensPerExpert: TensorView?
  ) throws(EngineError) {
    let router = try RouterLaunch(configuration, logits, "the router")
    if let selectionBias, selectionBias.dtype != .f32 {
      throw EngineError(
        .unsupported,
        "selection_bias is \(selectionBias.dtype.name); expected float32 on a CUDA device")
    }
    guard configuration.sinkhornIterations == 0 else {
      throw EngineError(
        .unsupported,
        "Sinkhorn routing in training is supported on CPUs only; move the logits to the CPU")
    }
    if let tokensPerExpert { try clear(tokensPerExpert) }
    try kernel(.route, "route", router.defines).launch(
      grid: router.grid(on: device), block: RouterLaunch.block,
      sharedBytes: router.bytes(perExpert: 1, perWarp: ROUTE_NUMBERS), on: stream, logits,
      selectionBias,
      topkIdx, topkWeights, tokensPerExpert, router.tokenCount, router.expertCount,
      router.parameters, device.faults.address)
  }

  /// Computes the gradient of the logits. An index outside [0, E) counts as no choice, and the next call throws.
  public func routeBackward(
    _ configuration: RouteConfiguration, logits: TensorView, topkIdx: TensorView,
    gradTopkWeights: TensorView, into gradLogits: TensorView
  ) throws(EngineError) {
    let router = try RouterLaunch(configuration, logits, "the router's backward")
    try kernel(.routeBackward, "route_backward", router.defines).launch(
      grid: router.grid(on: device), block: RouterLaunch.block,
      sharedBytes: router.bytes(perExpert: 0, perWarp: ROUTE_BACKWARD_NUMBERS), on: stream, logits,
      topkIdx,
      gradTopkWeights, gradLogits, router.tokenCount, router.expertCount, router.parameters,
      device.faults.address)
  }
}

/// The launch parameters of a router's product.
struct RouterProduct {
  /// The numbers of experts per block.
  static let columns = [16, 32, 64, 128]
  static let block = LaunchSize(ROUTER_WARPS * 32)
  static let operands = KernelVariant.elements.flatMap { dtype in
    [false, true].map { operand(dtype, isAligned: $0) }
  }

  let defines: KernelSource.Defines
  let grid: LaunchSize
  let sharedBytes: Int

  init(_ x: TensorView, _ router: TensorView) throws(EngineError) {
    try KernelVariant.check(x.dtype, for: "the router's product")
    let (tokens, experts) = (x.shape[0], router.shape[0])
    let columns = Self.columns.first { $0 >= experts } ?? 128
    let isAligned = KernelVariant.vector(x.dtype, widths: [x.shape[1]], [x, router]) > 1
    defines =
      Self.operand(x.dtype, isAligned: isAligned) + KernelVariant.define("COLUMNS", columns)
    grid = LaunchSize(
      ((tokens + ROUTER_ROWS - 1) / ROUTER_ROWS) * ((experts + columns - 1) / columns))
    let (stages, chunks) = (router_stages(Int32(columns)), router_stage_chunks(Int32(columns)))
    sharedBytes = 16 * Int(chunks * stages)
  }

  private static func operand(_ dtype: DataType, isAligned: Bool) -> KernelSource.Defines {
    KernelVariant.define("ELEMENT", KernelVariant.code(dtype))
      + KernelVariant.define("ALIGNED", isAligned ? 1 : 0)
  }
}

/// The launch parameters of a router's forward or backward, with one warp per token.
private struct RouterLaunch {
  /// The numbers of experts per lane.
  private static let perLane = [1, 2, 4, 8, 16, 32]
  static let block = LaunchSize(ROUTE_THREADS)
  private static let warps = ROUTE_THREADS / 32

  static let axes = [KernelVariant.element, KernelVariant.each("PER_LANE", perLane)]

  let defines: KernelSource.Defines
  let parameters: RouteParameters
  let tokenCount: Int64
  let expertCount: Int32

  init(
    _ configuration: RouteConfiguration, _ logits: TensorView, _ operation: String
  ) throws(EngineError) {
    try KernelVariant.check(logits.dtype, for: operation)
    let (tokens, experts) = (logits.shape[0], logits.shape[1])
    guard let perLane = Self.perLane.first(where: { 32 * $0 >= experts }) else {
      throw EngineError(
        .unsupported, "\(operation) has \(experts) experts; expected at most 1024 on a CUDA device")
    }
    defines =
      KernelVariant.define("ELEMENT", KernelVariant.code(logits.dtype))
      + KernelVariant.define("PER_LANE", perLane)
    parameters = RouteParameters(configuration)
    tokenCount = Int64(tokens)
    expertCount = Int32(experts)
  }

  func grid(on device: CUDADevice) -> LaunchSize {
    LaunchSize(min((Int(tokenCount) + Self.warps - 1) / Self.warps, 16 * device.processorCount))
  }

  /// The shared memory for numbers of 4 bytes: some per expert, and some per expert and warp.
  func bytes(perExpert: Int, perWarp: Int) -> Int {
    4 * Int(expertCount) * (perExpert + Self.warps * perWarp)
  }
}

private struct RouteParameters: KernelArgument {
  let bits: RouteConfig

  init(_ configuration: RouteConfiguration) {
    bits = RouteConfig(
      score: Int32(configuration.score.code), top_k: Int32(configuration.topK),
      normalize: configuration.normalizeEpsilon == nil ? 0 : 1,
      normalize_epsilon: Float(configuration.normalizeEpsilon ?? 0),
      scale: Float(configuration.scale), group_score: Int32(configuration.groupScore.code),
      num_groups: Int32(configuration.numGroups), topk_groups: Int32(configuration.topkGroups))
  }
}

extension RouteConfiguration.Score {
  fileprivate var code: Int {
    switch self {
    case .softmax: SCORE_SOFTMAX
    case .topkSoftmax: SCORE_TOPK_SOFTMAX
    case .sigmoid: SCORE_SIGMOID
    case .sinkhorn: SCORE_SINKHORN
    }
  }
}

extension RouteConfiguration.GroupScore {
  fileprivate var code: Int {
    switch self {
    case .none: GROUP_SCORE_NONE
    case .max: GROUP_SCORE_MAX
    case .top2Sum: GROUP_SCORE_TOP2_SUM
    }
  }
}
