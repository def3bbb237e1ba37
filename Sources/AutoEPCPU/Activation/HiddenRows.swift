import AutoEPCore

/// The rows [G] of a pre-activation, or of its bias, as gates and ups.
struct HiddenRows<S: Scalar> {
  private let elements: Elements<S>
  private let rowWidth: Int
  private let layout: ExpertsConfiguration.Gate

  /// The rows of a tensor `[R, G]`.
  init(_ tensor: TensorView, gate layout: ExpertsConfiguration.Gate) {
    elements = Elements(tensor)
    rowWidth = tensor.shape[1]
    self.layout = layout
  }

  /// Widens a range of a row's gates and their ups.
  func load(
    _ row: Int, columns: Range<Int>, gate: Elements<S.Wide>, up: Elements<S.Wide>
  ) {
    let row = elements.row(row, width: rowWidth)
    switch layout {
    case .none: row[columns].widen(into: gate)
    case .concatenated:
      row[columns].widen(into: gate)
      row[ups(columns)].widen(into: up)
    case .interleaved:
      for (index, column) in columns.enumerated() {
        gate[index] = row[2 * column].wide
        up[index] = row[2 * column + 1].wide
      }
    }
  }

  /// Rounds a range of a row's gates and their ups into place.
  func store(
    _ row: Int, columns: Range<Int>, gate: Elements<S.Wide>, up: Elements<S.Wide>
  ) {
    let row = elements.row(row, width: rowWidth)
    switch layout {
    case .none: row[columns].store(gate)
    case .concatenated:
      row[columns].store(gate)
      row[ups(columns)].store(up)
    case .interleaved:
      for (index, column) in columns.enumerated() {
        row[2 * column] = S(rounding: gate[index])
        row[2 * column + 1] = S(rounding: up[index])
      }
    }
  }

  /// The targets of a product of gates, or of gates and ups; empty if they are interleaved.
  func targets(of rows: RowAddresses, firstColumn: Int) -> [ProductTarget<S>] where S: RowScalar {
    switch layout {
    case .none: [ProductTarget(rows: rows, firstColumn: firstColumn)]
    case .concatenated:
      [firstColumn, firstColumn + rowWidth / 2].map { ProductTarget(rows: rows, firstColumn: $0) }
    case .interleaved: []
    }
  }

  private func ups(_ columns: Range<Int>) -> Range<Int> {
    columns.lowerBound + rowWidth / 2..<columns.upperBound + rowWidth / 2
  }
}
