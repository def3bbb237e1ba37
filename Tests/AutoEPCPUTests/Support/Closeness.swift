import AutoEPCore
import Testing

/// The error that a tensor of a dtype may have against a reference in f64, by norm.
///
/// For bf16 the reference has the same rounded inputs. The remaining error is one rounding of each element,
/// at most 2^-8 of it (half a unit of its 8 bits), and that of the f32 sums before.
func tolerance(_ dtype: DataType) -> Double {
  switch dtype {
  case .f64: 1e-12
  case .f32: 3e-6
  case .bf16: 0x1p-8 + 3e-6
  case .f16: 0x1p-11 + 3e-6
  case .i32, .i64: 0
  }
}

/// Expects ‖tensor − reference‖ ≤ tolerance · ‖reference‖, and no unwritten element. The default tolerance is that of
/// the dtype.
func expectClose(
  _ tensor: Tensor, _ reference: [Double], _ label: String = "", allowing allowed: Double? = nil,
  sourceLocation: SourceLocation = #_sourceLocation
) {
  let values = tensor.values
  #expect(values.count == reference.count, sourceLocation: sourceLocation)
  let difference = norm(zip(values, reference).map { $0 - $1 })
  let bound = (allowed ?? tolerance(tensor.view.dtype)) * norm(reference)
  #expect(
    difference <= bound, "\(label) \(tensor.view.dtype.name) \(tensor.view.shape)",
    sourceLocation: sourceLocation)
}

private func norm(_ values: [Double]) -> Double {
  values.reduce(0) { $0 + $1 * $1 }.squareRoot()
}
