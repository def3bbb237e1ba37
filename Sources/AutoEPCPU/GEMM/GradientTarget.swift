import AutoEPCore

/// The target of a weight's or bias's gradient, in the weights' type or the sum type; overwritten or accumulated
/// into.
struct GradientTarget: Sendable {
  let tensor: TensorView
  let accumulate: Bool

  init(_ tensor: TensorView, accumulate: Bool) {
    self.tensor = tensor
    self.accumulate = accumulate
  }

  /// Whether products of rows of type S are rounded directly into this target.
  func isRounded<S: Scalar>(to _: S.Type) -> Bool {
    !accumulate && tensor.dtype == S.dataType
  }

  /// Stores sums in some columns of a row; the target is seen as `[rows, width]`, where width is its last dimension.
  func store<S: Scalar>(
    _ sums: Elements<S.Wide>, row: Int, columns: Range<Int>, as _: S.Type
  ) {
    let width = tensor.shape[tensor.shape.count - 1]
    if isRounded(to: S.self) {
      Elements<S>(tensor).row(row, width: width)[columns].store(sums)
    } else if accumulate {
      Elements<S.Wide>(tensor).row(row, width: width)[columns].add(sums[0..<columns.count])
    } else {
      Elements<S.Wide>(tensor).row(row, width: width)[columns].copy(sums[0..<columns.count])
    }
  }
}
