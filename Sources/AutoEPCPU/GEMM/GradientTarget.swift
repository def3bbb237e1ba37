import AutoEPCore

/// Where the gradient of a weight or a bias goes: rounded to the weights' type, or in the type of sums, written or
/// added to.
struct GradientTarget: Sendable {
  let tensor: TensorView
  let accumulate: Bool

  init(_ tensor: TensorView, accumulate: Bool) {
    self.tensor = tensor
    self.accumulate = accumulate
  }

  /// Whether products of rows of type S round into their places by themselves.
  func isRounded<S: Scalar>(to _: S.Type) -> Bool {
    !accumulate && tensor.dtype == S.dataType
  }

  /// Puts sums into some columns of a row of `[rows, width]`, the last dimension being the width.
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
