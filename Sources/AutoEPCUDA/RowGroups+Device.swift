import AutoEPCore
import AutoEPSystem

extension RowGroups {
  /// The bounds that kernels are compiled for.
  static let axis = KernelVariant.each("GROUPS", [0, 4, 8])

  var choice: KernelSource.Choice {
    switch bounds {
    case .counts(let counts): KernelVariant.define("GROUPS", counts.dtype.byteCount)
    case .offsets: KernelVariant.define("GROUPS", 0)
    }
  }

  /// First row of each group, `[E+1]` i32; nil for counts, whose rows are all in use.
  var offsets: TensorView? {
    guard case .offsets(let offsets) = bounds else { return nil }
    return offsets
  }

  /// The device's number of rows in use; 0 for counts, whose rows are all in use.
  var rowsInUse: DeviceAddress { offsets.map { $0.address + 4 * count } ?? DeviceAddress(0) }
}

/// The tensor of rows that a kernel reads or writes one after the other.
func inOrder(_ rows: ExpertRows) throws(EngineError) -> TensorView {
  guard case .inOrder = rows.placement else {
    throw EngineError(.internal, "kernels take rows in expert order; copy them first")
  }
  return rows.tensor
}

/// The same of rows that may be left out.
func optionalInOrder(_ rows: ExpertRows?) throws(EngineError) -> TensorView? {
  guard let rows else { return nil }
  return try inOrder(rows)
}
