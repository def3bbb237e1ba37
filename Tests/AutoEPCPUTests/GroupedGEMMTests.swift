import AutoEPCore
import Testing

@testable import AutoEPCPU

@Suite struct GroupedGEMMTests {
  @Test(arguments: [DataType.f32, .f64, .bf16], [WeightLayout.outIn, .inOut])
  func multipliesEachGroup(dtype: DataType, layout: WeightLayout) throws {
    let backend = try CPUBackend(numThreads: 2)
    var random = Random(1)
    let (inSize, outSize, counts) = (300, 65, [3, 0, 17, 1])
    let rows = random.tensor([21, inSize], dtype)
    let shape = layout == .outIn ? [4, outSize, inSize] : [4, inSize, outSize]
    let weights = random.tensor(shape, dtype)
    let out = Tensor([21, outSize], dtype)
    try backend.groupedGEMM(
      rows.view, weights: weights.view, layout: layout, bias: nil, rowsPerGroup: counts,
      into: out.view)
    var reference: [Double] = []
    let (x, w) = (rows.values, weights.values)
    var r = 0
    for (g, c) in counts.enumerated() {
      for _ in 0..<c {
        for o in 0..<outSize {
          var s = 0.0
          for i in 0..<inSize {
            let place = layout == .outIn ? o * inSize + i : i * outSize + o
            s += x[r * inSize + i] * w[g * outSize * inSize + place]
          }
          reference.append(s)
        }
        r += 1
      }
    }
    expectClose(out, reference)
  }
}
