import Glibc
import Testing

@testable import AutoEPCPU

@Suite struct ExponentialTests {
  @Test func isWithinOneUnitInTheLastPlace() {
    // An odd stride through the bits of all floats, of either sign.
    let inputs = stride(from: UInt32(0), to: .max, by: 99_991).map { Float(bitPattern: $0) }
    for (x, result) in zip(inputs, exponentials(inputs)) where !x.isNaN {
      let exact = exp(Double(x))
      guard exact < Double(Float.greatestFiniteMagnitude) else {
        #expect(result == .infinity, "\(x)")
        continue
      }
      #expect(abs(Double(result) - exact) <= Double(Float(exact).ulp), "\(x)")
    }
  }

  @Test func specialValues() {
    let results = exponentials([0, -0.0, .infinity, -.infinity, .nan, 89, -104, 1e30, -1e30])
    #expect(results[0] == 1 && results[1] == 1)
    #expect(results[2] == .infinity && results[5] == .infinity && results[7] == .infinity)
    #expect(results[3] == 0 && results[6] == 0 && results[8] == 0)
    #expect(results[4].isNaN)
  }

  private func exponentials(_ inputs: [Float]) -> [Float] {
    var values = inputs
    values.withElements { Float.exponentiate($0) }
    return values
  }
}
