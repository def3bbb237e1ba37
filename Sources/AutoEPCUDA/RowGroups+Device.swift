import AutoEPCore
import AutoEPSystem

extension RowGroups {
  /// The kinds of bounds that kernels are compiled for.
  static let axis = KernelVariant.each("GROUPS", [0, 4, 8])

  var defines: KernelSource.Defines {
    switch bounds {
    case .counts(let counts): KernelVariant.define("GROUPS", counts.dtype.byteCount)
    case .offsets: KernelVariant.define("GROUPS", 0)
    }
  }

  /// The first row of each group, `[E+1]` i32; nil for counts, whose rows are all in use.
  var offsets: TensorView? {
    guard case .offsets(let offsets) = bounds else { return nil }
    return offsets
  }

  /// The address of the number of rows in use; 0 for counts, whose rows are all in use.
  var rowsInUse: DeviceAddress { offsets.map { $0.address + 4 * count } ?? DeviceAddress(0) }
}

/// The tensor of rows that are in order; throws for other placements.
func inOrder(_ rows: ExpertRows) throws(EngineError) -> TensorView {
  guard case .inOrder = rows.placement else {
    throw EngineError(.internal, "kernels read rows in expert order only; copy the rows first")
  }
  return rows.tensor
}

/// The tensor of optional rows that are in order.
func optionalInOrder(_ rows: ExpertRows?) throws(EngineError) -> TensorView? {
  guard let rows else { return nil }
  return try inOrder(rows)
}
