/// x · sigmoid(x).
func silu<R: Real>(_ x: R) -> R { x * R.sigmoid(x) }

func siluDerivative<R: Real>(_ x: R) -> R {
  let s = R.sigmoid(x)
  return s + x * s * R.sigmoid(-x)
}

/// x · Φ(x), with the normal distribution's Φ.
func gelu<R: Real>(_ x: R) -> R { x * normalDistribution(x) }

func geluDerivative<R: Real>(_ x: R) -> R {
  let inverseSqrtTwoPi: R = 0.398942280401432677939946059934
  return normalDistribution(x) + x * inverseSqrtTwoPi * R.exp(-x * x / 2)
}

private func normalDistribution<R: Real>(_ x: R) -> R {
  let inverseSqrtTwo: R = 0.707106781186547524400844362105
  return (1 + R.erf(x * inverseSqrtTwo)) / 2
}

/// x · (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2.
func geluTanh<R: Real>(_ x: R) -> R { x * (1 + R.tanh(geluTanhInner(x))) / 2 }

func geluTanhDerivative<R: Real>(_ x: R) -> R {
  let t = R.tanh(geluTanhInner(x))
  let innerDerivative = R.sqrtTwoOverPi * (1 + 3 * R.geluCubic * x * x)
  return (1 + t) / 2 + x * (1 - t * t) * innerDerivative / 2
}

private func geluTanhInner<R: Real>(_ x: R) -> R {
  R.sqrtTwoOverPi * (x + R.geluCubic * x * x * x)
}

/// max(x, 0)².
func reluSquared<R: Real>(_ x: R) -> R { x < 0 ? 0 : x * x }

func reluSquaredDerivative<R: Real>(_ x: R) -> R { x < 0 ? 0 : 2 * x }

extension Real {
  fileprivate static var sqrtTwoOverPi: Self { 0.797884560802865355879892119869 }
  fileprivate static var geluCubic: Self { 0.044715 }
}
