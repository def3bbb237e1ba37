import AutoEPCore
import AutoEPSystem

extension KernelSource {
  static let zLoss = KernelSource(
    "z_loss.cu", PackageResources.z_loss_cu, axes: [KernelVariant.element])

  static let jitter = KernelSource(
    "jitter.cu", PackageResources.jitter_cu, axes: [KernelVariant.element])
}

extension CUDABackend {
  /// Mean over tokens of logsumexp(logits)², computed by one block so that the sum has a fixed order.
  public func routerZLoss(logits: TensorView, into loss: TensorView) throws(EngineError) {
    try elementKernel(.zLoss, "z_loss", logits, "the z-loss").launch(
      grid: 1, block: 1024, sharedBytes: 32 * 8, on: stream, logits, loss,
      Int64(logits.shape[0]), kernelInt(logits.shape[1], "E"))
  }

  /// Computes the z-loss's gradient of the logits.
  public func routerZLossBackward(
    logits: TensorView, gradLoss: TensorView, into gradLogits: TensorView
  ) throws(EngineError) {
    try elementKernel(.zLoss, "z_loss_backward", logits, "the z-loss's backward").launch(
      grid: LaunchSize(blocks(warps: logits.shape[0])), block: 256, on: stream, logits, gradLoss,
      gradLogits, Int64(logits.shape[0]), kernelInt(logits.shape[1], "E"))
  }

  /// y = x times uniform noise in [1 - epsilon, 1 + epsilon], a function of seed and index.
  public func jitter(
    _ x: TensorView, epsilon: Double, seed: UInt64, into y: TensorView
  ) throws(EngineError) {
    let count = x.elementCount
    try elementKernel(.jitter, "jitter", x, "jitter").launch(
      grid: LaunchSize(blocks(warps: (count + 31) / 32)), block: 256, on: stream, x, y,
      Int64(count), epsilon, seed)
  }

  private func elementKernel(
    _ source: KernelSource, _ name: String, _ tensor: TensorView, _ operation: String
  ) throws(EngineError) -> CUDAKernel {
    try KernelVariant.check(tensor.dtype, for: operation)
    return try kernel(
      source, name, KernelVariant.define("ELEMENT", KernelVariant.code(tensor.dtype)))
  }
}
