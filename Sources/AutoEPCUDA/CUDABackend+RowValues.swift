import AutoEPCore
import AutoEPSystem
import CKernels

extension KernelSource {
  static let scatterToRows = KernelSource(
    "scatter_to_rows.cu", PackageResources.scatter_to_rows_cu, axes: [KernelVariant.weights])

  static let gatherFromRows = KernelSource(
    "gather_from_rows.cu", PackageResources.gather_from_rows_cu, axes: [KernelVariant.weights])
}

/// Numbers that accompany rows: the weight of each row, and its gradient.
extension CUDABackend {
  /// rowValues[rowOfSlot[t,k]] = values[t,k].
  public func scatterToRows(
    _ values: TensorView, rowOfSlot: TensorView, into rowValues: TensorView
  ) throws(EngineError) {
    try KernelVariant.check(values.dtype, for: "the weights of rows")
    let slots = rowOfSlot.elementCount
    try kernel(.scatterToRows, "scatter_to_rows", KernelVariant.weight(values.dtype)).launch(
      grid: LaunchSize((slots + 255) / 256), block: 256, on: stream, values, rowOfSlot, rowValues,
      Int64(slots), kernelInt(rowValues.shape[0], "R"))
  }

  /// values[t,k] = Σ_i partials[rowOfSlot[t,k],i].
  public func gatherFromRows(
    _ partials: TensorView, rowOfSlot: TensorView, into values: TensorView
  ) throws(EngineError) {
    try gather(partials, rowOfSlot: rowOfSlot, into: values)
  }

  /// sums[r] = Σ_i partials[r,i].
  public func sumPartials(_ partials: TensorView, into sums: TensorView) throws(EngineError) {
    try gather(partials, rowOfSlot: nil, into: sums)
  }

  private func gather(
    _ partials: TensorView, rowOfSlot: TensorView?, into values: TensorView
  ) throws(EngineError) {
    try KernelVariant.check(values.dtype, for: "the gradient of topk_weights")
    let slots = values.elementCount
    try kernel(.gatherFromRows, "gather_from_rows", KernelVariant.weight(values.dtype)).launch(
      grid: LaunchSize((slots + 255) / 256), block: 256, on: stream, partials, rowOfSlot, values,
      Int64(slots), kernelInt(partials.shape[0], "R"),
      kernelInt(partials.shape[1], "the parts of a sum"))
  }
}
