import AutoEPCore

extension CPUBackend {
  /// y = x times the noise factor of each index.
  public func jitter(_ x: TensorView, epsilon: Double, seed: UInt64, into y: TensorView) {
    let noise = JitterNoise(epsilon: epsilon, seed: seed)
    switch x.dtype {
    case .f32: jitter(Elements<Float>(x), noise, Elements(y))
    case .f64: jitter(Elements<Double>(x), noise, Elements(y))
    case .bf16: jitter(Elements<BFloat16>(x), noise, Elements(y))
    case .f16, .i32, .i64: assertionFailure("callers check the dtype")
    }
  }

  private func jitter<S: Scalar>(_ x: Elements<S>, _ noise: JitterNoise, _ y: Elements<S>) {
    pool.forEachRange(of: x.count, grain: Self.grain(elementsPerItem: 4)) {
      for index in $0 {
        y[index] = S(rounding: x[index].wide * S.Wide(noise.factor(of: index)))
      }
    }
  }
}

/// The noise factors: a hash of seed and element index, so that they do not depend on device or order.
struct JitterNoise {
  let epsilon: Double
  let seed: UInt64

  /// Uniform in [1 - epsilon, 1 + epsilon).
  func factor(of index: Int) -> Double {
    let uniform = Double(hash(UInt64(truncatingIfNeeded: index)) >> 11) * 0x1p-53
    return 1 - epsilon + 2 * epsilon * uniform
  }

  /// SplitMix64: the index-th output of the generator seeded with `seed`.
  private func hash(_ index: UInt64) -> UInt64 {
    var z = seed &+ (index &+ 1) &* 0x9E37_79B9_7F4A_7C15
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
}
