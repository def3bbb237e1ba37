import AutoEPCore

extension CPUBackend {
  /// Mean over tokens of logsumexp(logits)², summed in token order.
  public func routerZLoss(logits: TensorView, into loss: TensorView) {
    switch logits.dtype {
    case .f32: zLoss(Elements<Float>(logits), numTokens: logits.shape[0], into: loss)
    case .f64: zLoss(Elements<Double>(logits), numTokens: logits.shape[0], into: loss)
    case .bf16: zLoss(Elements<BFloat16>(logits), numTokens: logits.shape[0], into: loss)
    case .f16: zLoss(Elements<Float16>(logits), numTokens: logits.shape[0], into: loss)
    case .i32, .i64: assertionFailure("callers check the dtype")
    }
  }

  /// Computes the z-loss's gradient of the logits.
  public func routerZLossBackward(
    logits: TensorView, gradLoss: TensorView, into gradLogits: TensorView
  ) {
    switch logits.dtype {
    case .f32: zLossBackward(Elements<Float>(logits), gradLoss, gradLogits)
    case .f64: zLossBackward(Elements<Double>(logits), gradLoss, gradLogits)
    case .bf16: zLossBackward(Elements<BFloat16>(logits), gradLoss, gradLogits)
    case .f16: zLossBackward(Elements<Float16>(logits), gradLoss, gradLogits)
    case .i32, .i64: assertionFailure("callers check the dtype")
    }
  }

  private func zLoss<S: Scalar>(_ logits: Elements<S>, numTokens: Int, into loss: TensorView) {
    guard numTokens > 0 else { return loss.store([S.Wide.zero]) }
    let numExperts = logits.count / numTokens
    let squares = [Double](count: numTokens) { squares in
      pool.forEachRange(of: numTokens, grain: Self.grain(elementsPerItem: numExperts * 8)) {
        for token in $0 {
          let value = Double(logSumExp(logits.row(token, width: numExperts).widened()))
          squares[token] = value * value
        }
      }
    }
    loss.store([S.Wide(squares.reduce(0, +) / Double(numTokens))])
  }

  private func zLossBackward<S: Scalar>(
    _ logits: Elements<S>, _ gradLoss: TensorView, _ gradLogits: TensorView
  ) {
    let (numTokens, numExperts) = (gradLogits.shape[0], gradLogits.shape[1])
    guard let gradLoss = gradLoss.reals(S.Wide.self).first else { return }
    let gradLogits = Elements<S>(gradLogits)
    pool.forEachRange(of: numTokens, grain: Self.grain(elementsPerItem: numExperts * 8)) {
      for token in $0 {
        var row = logits.row(token, width: numExperts).widened()
        let factor = gradLoss * 2 * logSumExp(row) / S.Wide(numTokens)
        row.withElements { softmax($0) }
        gradLogits.row(token, width: numExperts).store(row.map { $0 * factor })
      }
    }
  }
}

private func logSumExp<R: Real>(_ values: [R]) -> R {
  let largest = values.reduce(-R.infinity) { Swift.max($0, $1) }
  guard largest.isFinite else { return largest }
  return largest + R.log(values.reduce(0) { $0 + R.exp($1 - largest) })
}
