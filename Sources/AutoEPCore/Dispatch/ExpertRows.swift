/// The rows of this rank's experts: row r, in expert order, is one of the rows of a tensor.
public struct ExpertRows {
  /// How the rows lie in the tensor.
  public enum Placement {
    /// Row r is the r-th.
    case inOrder
    /// Row r is the `index[r]`-th; `[R]` i32.
    case indexed(TensorView)
    /// Row r is a copy of a token, of which the tensor has one row each.
    case tokens(SlotMap)
  }

  /// `[R', width]`.
  public let tensor: TensorView
  /// Where each row is in the tensor.
  public let placement: Placement

  /// Describes rows in the backend's memory.
  public init(_ tensor: TensorView, _ placement: Placement = .inOrder) {
    self.tensor = tensor
    self.placement = placement
  }

  /// The width of a row.
  public var width: Int { tensor.shape[1] }
}

/// Which slot has which row, both ways. Slot t·K + k is the k-th choice of token t.
public struct SlotMap {
  /// The row of each slot, `[T,K]` i32; -1 for a slot without one.
  public let rowOfSlot: TensorView
  /// The slot of each row, `[T·K]` i32; those behind the rows in use mean nothing.
  public let slotOfRow: TensorView

  /// Gathers both.
  public init(rowOfSlot: TensorView, slotOfRow: TensorView) {
    self.rowOfSlot = rowOfSlot
    self.slotOfRow = slotOfRow
  }

  /// K.
  public var topK: Int { rowOfSlot.shape[1] }
}

extension ExpertRows {
  /// How many rows there is room for: those of the tensor, or of the index to it.
  public var capacity: Int {
    switch placement {
    case .inOrder: tensor.shape[0]
    case .indexed(let index): index.elementCount
    case .tokens(let slots): slots.slotOfRow.elementCount
    }
  }
}
