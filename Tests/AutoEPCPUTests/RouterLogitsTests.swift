import AutoEPCore
import AutoEPSystem
import Testing

@testable import AutoEPCPU

@Suite struct RouterLogitsTests {
  @Test(arguments: testKernels, [DataType.f64, .f32, .bf16])
  func multipliesByTheTranspose(kernels: KernelSet, dtype: DataType) throws {
    for (tokens, experts, width) in [(1, 1, 1), (33, 7, 24), (70, 60, 129), (5, 288, 8), (3, 4, 0)]
    {
      var random = Random(31)
      let x = random.tensor([tokens, width], dtype)
      let router = random.tensor([experts, width], dtype)
      let logits = Tensor([tokens, experts], dtype)
      try testBackend(kernels: kernels).routerLogits(
        x.view, router: router.view, into: logits.view)
      let (rows, weights) = (x.values, router.values)
      let reference = (0..<tokens * experts).map { index in
        (0..<width).reduce(0) { sum, depth in
          sum + rows[index / experts * width + depth] * weights[index % experts * width + depth]
        }
      }
      expectClose(logits, reference)
    }
  }

  @Test func noTokens() throws {
    let empty = Tensor([0, 5], .f32)
    try testBackend().routerLogits(
      empty.view, router: Tensor([4, 5], .f32).view, into: Tensor([0, 4], .f32).view)
  }

  @Test func float16IsRefused() throws {
    let tensor = Tensor([2, 2], .f16)
    let error = #expect(throws: EngineError.self) {
      try testBackend().routerLogits(tensor.view, router: tensor.view, into: tensor.view)
    }
    #expect(error?.kind == .unsupported)
    #expect(error?.message.contains("router's product takes no tensor of dtype float16") == true)
  }
}
