import AutoEPCPU
import AutoEPCore
import AutoEPReferences

/// One forward of a router, with its inputs and outputs.
struct RouteRun {
  let router: RouterCase
  let logits: Tensor
  let selectionBias: Tensor?
  let topkIdx: Tensor
  let topkWeights: Tensor
  let tokensPerExpert: Tensor

  /// Routes logits on two threads.
  init(_ router: RouterCase, logits: Tensor, _ random: inout Random) throws {
    self.router = router
    self.logits = logits
    let wide: DataType = logits.view.dtype == .f64 ? .f64 : .f32
    let shape = [logits.view.shape[0], router.configuration.topK]
    selectionBias = router.hasBias ? random.tensor([router.numExperts], wide) : nil
    topkIdx = Tensor(shape, .i32)
    topkWeights = Tensor(shape, wide)
    tokensPerExpert = Tensor([router.numExperts], .i32)
    try CPUBackend(numThreads: 2).route(
      router.configuration, logits: logits.view, selectionBias: selectionBias?.view,
      topkIdx: topkIdx.view, topkWeights: topkWeights.view, tokensPerExpert: tokensPerExpert.view)
  }

  /// The reference's choice of experts and their weights.
  func reference() -> (experts: [Int], weights: [Double]) {
    let reference = PlainRouter(
      configuration: router.configuration, selectionBias: selectionBias?.values)
    let rows = self.rows
    let iterations = router.configuration.sinkhornIterations
    let balanced = iterations > 0 ? plainSinkhorn(rows, iterations: iterations) : nil
    var experts: [Int] = []
    var weights: [Double] = []
    for (token, row) in rows.enumerated() {
      let chosen = reference.experts(row, balanced: balanced?[token])
      experts += chosen
      weights += reference.weights(row.map { Dual($0) }, experts: chosen).map(\.value)
    }
    return (experts, weights)
  }

  /// The gradient of the logits for the backend's choice of experts.
  func referenceGradient(_ gradWeights: [Double]) -> [Double] {
    let reference = PlainRouter(configuration: router.configuration)
    let (topK, choice) = (router.configuration.topK, topkIdx.integers)
    return rows.enumerated().flatMap { token, row in
      let slots = token * topK..<(token + 1) * topK
      return gradient(at: row) { logits in
        zip(reference.weights(logits, experts: Array(choice[slots])), gradWeights[slots])
          .reduce(Dual(0)) { $0 + $1.1 * $1.0 }
      }
    }
  }

  private var rows: [[Double]] {
    let values = logits.values
    return (0..<logits.view.shape[0]).map {
      Array(values[$0 * router.numExperts..<($0 + 1) * router.numExperts])
    }
  }
}
