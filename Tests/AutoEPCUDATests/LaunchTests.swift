import AutoEPCore
import FakeCUDA
import Testing

@testable import AutoEPCUDA

/// Every launch that the backend has, on a driver that knows from the images what their kernels take: an
/// argument too many, too few or of another size fails the launch.
@Suite(.enabled(if: InstalledNVRTC.path != nil, Comment(rawValue: InstalledNVRTC.advice)))
struct LaunchTests {
  @Test("every kernel is launched with the arguments that it takes")
  func everyKernel() throws {
    let fake = try FakeDevice()
    let backend = CUDABackend(try fake.open(), stream: nil)
    // The experts' products of Hopper: each epilogue, each layout, each output of the weights' gradients.
    for layout in [WeightLayout.outIn, .inOut] {
      try Layer(layout: layout).run(on: backend)
    }
    try Layer(hasBiases: true, gradients: .f32).run(on: backend)
    try Layer(tokens: 2000, scoreApply: .before, gradients: .f32, accumulate: true).run(on: backend)
    // And the portable ones.
    try Layer(hasBiases: true, dtype: .f32).run(on: backend)
    try Layer(hasBiases: true, scoreApply: .before, dtype: .f16, gradients: .f32, accumulate: true)
      .run(on: backend)
    try runOperations(on: backend, .f16)
    let missing = kernelNames.filter { fake.launches(of: $0) == 0 }
    #expect(missing.isEmpty)
  }

  /// The names of all kernels, as their sources have them.
  private var kernelNames: [String] {
    KernelSource.all.flatMap { source in
      String(decoding: source.text, as: UTF8.self)
        .matches(of: /__global__ void(?:\s+__\w+__\([^)]*\))*\s+(\w+)\(/).map { String($0.1) }
    }
  }

  /// The operations that a layer's pass does not contain.
  private func runOperations(on backend: CUDABackend, _ dtype: DataType) throws {
    let (tokens, experts, width) = (40, 6, 24)
    let memory = FakeMemory()
    let logits = memory.tensor([tokens, experts], dtype)
    let (idx, weights) = (memory.tensor([tokens, 2], .i32), memory.tensor([tokens, 2], .f32))
    let (x, router) = (
      memory.tensor([tokens, width], dtype), memory.tensor([experts, width], dtype)
    )
    try backend.routerLogits(x, router: router, into: logits)
    let configuration = RouteConfiguration(score: .softmax, topK: 2)
    try backend.route(
      configuration, logits: logits, selectionBias: memory.tensor([experts], .f32), topkIdx: idx,
      topkWeights: weights, tokensPerExpert: memory.tensor([experts], .i32))
    try backend.routeBackward(
      configuration, logits: logits, topkIdx: idx, gradTopkWeights: weights, into: logits)
    let loss = memory.tensor([1], .f32)
    try backend.routerZLoss(logits: logits, into: loss)
    try backend.routerZLossBackward(logits: logits, gradLoss: loss, into: logits)
    try backend.jitter(x, epsilon: 0.01, seed: 7, into: x)
    try backend.sortByExpert(
      topkIdx: memory.tensor([tokens, 2], .i64), numExperts: experts, rowOfSlot: idx,
      tokensPerExpert: memory.tensor([experts], .i32))
    let counts = memory.tensor([experts], .i64)
    let matrices = memory.tensor([experts, 16, width], dtype)
    let out = memory.tensor([tokens, 16], dtype)
    try backend.groupedGEMM(
      x, weights: matrices, layout: .outIn, bias: nil, rowsPerGroup: counts, into: out)
    try backend.groupedGEMMWeightGradient(
      gradOut: out, rows: x, layout: .outIn, rowsPerGroup: counts, into: matrices)
    try backend.groupedRowSum(out, rowsPerGroup: counts, into: memory.tensor([experts, 16], dtype))
  }
}

/// A layer's forward and backward on memory that is not there.
private struct Layer {
  var tokens = 300
  var layout = WeightLayout.outIn
  var hasBiases = false
  var scoreApply = ExpertsConfiguration.ScoreApply.after
  var dtype = DataType.bf16
  /// The type of the weights' gradients; nil for the layer's.
  var gradients: DataType?
  var accumulate = false

  func run(on backend: CUDABackend) throws {
    let (experts, topK, width, inner) = (6, 2, 264, 392)
    var configuration = ExpertsConfiguration(
      numExperts: experts, hiddenSize: width, ffnSize: inner, dtype: dtype)
    configuration.weightLayout = layout
    configuration.scoreApply = scoreApply
    let layer = try LocalExperts(configuration, numTokens: tokens, topK: topK, on: backend)
    let memory = FakeMemory()
    func weights(_ dtype: DataType) -> (TensorView, TensorView?, TensorView, TensorView?) {
      func matrix(_ out: Int, _ in: Int) -> TensorView {
        memory.tensor(layout == .outIn ? [experts, out, `in`] : [experts, `in`, out], dtype)
      }
      return (
        matrix(2 * inner, width), hasBiases ? memory.tensor([experts, 2 * inner], dtype) : nil,
        matrix(width, inner), hasBiases ? memory.tensor([experts, width], dtype) : nil
      )
    }
    let own = weights(dtype)
    let results = weights(gradients ?? dtype)
    let parameters = ExpertsWeights(
      gateUp: own.0, gateUpBias: own.1, down: own.2, downBias: own.3)
    let rows = tokens * topK
    let (x, hidden) = (
      memory.tensor([tokens, width], dtype), memory.tensor([rows, 2 * inner], dtype)
    )
    let topkWeights = memory.tensor([tokens, topK], .f32)
    let routing = memory.arena(layer.routingByteCount)
    var arena = memory.arena(layer.forwardWorkspaceByteCount)
    try layer.forward(
      parameters, x: x, topkIdx: memory.tensor([tokens, topK], .i64), topkWeights: topkWeights,
      routing: routing, hidden: hidden, tokensPerExpert: memory.tensor([experts], .i32),
      into: memory.tensor([tokens, width], dtype), arena: &arena)
    arena = memory.arena(layer.backwardWorkspaceByteCount)
    try layer.backward(
      parameters, gradY: x, x: x, topkWeights: topkWeights, routing: routing, hidden: hidden,
      gradHidden: hidden, activated: memory.tensor([rows, inner], dtype),
      gradX: memory.tensor([tokens, width], dtype), gradTopkWeights: topkWeights,
      gradients: ExpertsGradients(
        gateUp: results.0, gateUpBias: results.1, down: results.2, downBias: results.3),
      accumulate: accumulate, scratch: memory.arena(layer.backwardScratchByteCount), arena: &arena)
  }
}

/// Addresses of a device that nothing reads.
private final class FakeMemory {
  private var next = 1 << 20

  func tensor(_ shape: [Int], _ dtype: DataType) -> TensorView {
    TensorView(data: take(shape.reduce(dtype.byteCount, *)), shape: shape, dtype: dtype)
  }

  func arena(_ byteCount: Int) -> Arena { Arena(base: take(byteCount), byteCount: byteCount) }

  private func take(_ byteCount: Int) -> UnsafeMutableRawPointer? {
    defer { next += (byteCount + 255) / 256 * 256 }
    return UnsafeMutableRawPointer(bitPattern: next)
  }
}
