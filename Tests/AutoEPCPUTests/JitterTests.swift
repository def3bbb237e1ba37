import AutoEPCPU
import AutoEPCore
import Testing

@Suite struct JitterTests {
  @Test(arguments: [DataType.f64, .f32, .bf16])
  func noiseIsUniformAndWithinBounds(dtype: DataType) throws {
    let noise = try jitter(Array(repeating: 1, count: 40_000), dtype, epsilon: 0.25, seed: 5)
    #expect(noise.allSatisfy { (0.75...1.25).contains($0) })
    let mean = noise.reduce(0, +) / 40_000
    let variance = noise.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / 40_000
    // Five standard errors of a uniform distribution's mean and variance.
    #expect(abs(mean - 1) < 0.0037)
    #expect(abs(variance - 0.25 * 0.25 / 3) < 0.0005)
  }

  @Test func noiseDependsOnSeedAndIndexOnly() throws {
    let ones = [Double](repeating: 1, count: 9)
    let noise = try jitter(ones, .f64, epsilon: 0.1, seed: 7)
    #expect(try jitter(ones, .f64, epsilon: 0.1, seed: 7) == noise)
    #expect(try jitter([1, 1, 1], .f64, epsilon: 0.1, seed: 7) == Array(noise[..<3]))
    #expect(try jitter(ones, .f64, epsilon: 0.1, seed: 8) != noise)
    #expect(Set(noise).count == 9)
  }

  @Test func scalesEachElementInPlace() throws {
    let values = [1.0, -2, 0, 3]
    let noise = try jitter([1, 1, 1, 1], .f64, epsilon: 0.1, seed: 7)
    let x = Tensor(values, [2, 2], .f64)
    try CPUBackend(numThreads: 1).jitter(x.view, epsilon: 0.1, seed: 7, into: x.view)
    expectClose(x, zip(values, noise).map { $0 * $1 })
  }

  @Test func noEpsilonChangesNothing() throws {
    let values = [1.5, -2.25, 1e30]
    #expect(try jitter(values, .f64, epsilon: 0, seed: 1) == values)
  }

  private func jitter(
    _ values: [Double], _ dtype: DataType, epsilon: Double, seed: UInt64
  ) throws -> [Double] {
    let (x, y) = (Tensor(values, [values.count], dtype), Tensor([values.count], dtype))
    try CPUBackend(numThreads: 2).jitter(x.view, epsilon: epsilon, seed: seed, into: y.view)
    return y.values
  }
}
