import AutoEPCPU
import AutoEPCore
import AutoEPReferences
import Testing

@Suite struct ZLossTests {
  private let types: [DataType] = [.f64, .f32, .bf16, .f16]

  @Test(arguments: [1, 3, 65], [1, 17])
  func lossAndGradientAreTheReferences(numTokens: Int, numExperts: Int) throws {
    let backend = try CPUBackend(numThreads: 2)
    for dtype in types {
      var random = Random(31)
      let logits = random.tensor([numTokens, numExperts], dtype)
      let loss = Tensor([1], dtype == .f64 ? .f64 : .f32)
      backend.routerZLoss(logits: logits.view, into: loss.view)
      expectClose(loss, [plainZLoss(logits.values.map { Dual($0) }, numExperts: numExperts).value])

      let gradLoss = Tensor([0.7], [1], loss.view.dtype)
      let gradLogits = Tensor([numTokens, numExperts], dtype)
      backend.routerZLossBackward(
        logits: logits.view, gradLoss: gradLoss.view, into: gradLogits.view)
      let slopes = gradient(at: logits.values) { plainZLoss($0, numExperts: numExperts) }
      expectClose(gradLogits, slopes.map { $0 * gradLoss.values[0] })
    }
  }

  @Test func noTokensGiveZero() throws {
    let loss = Tensor([1], .f32)
    try CPUBackend(numThreads: 1).routerZLoss(logits: Tensor([0, 4], .bf16).view, into: loss.view)
    #expect(loss.values == [0])
  }

  @Test func largeLogitsDoNotOverflow() throws {
    let loss = Tensor([1], .f32)
    let logits = Tensor([1000, -.infinity, 1000, -1000], [2, 2], .f32)
    try CPUBackend(numThreads: 1).routerZLoss(logits: logits.view, into: loss.view)
    expectClose(loss, [1_000_000])
  }
}
