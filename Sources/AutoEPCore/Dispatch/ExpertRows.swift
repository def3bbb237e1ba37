/// The rows of this rank's experts, in expert order, and their positions in a tensor.
public struct ExpertRows {
  /// How the rows are placed in the tensor.
  public enum Placement {
    /// Row r is row r of the tensor.
    case inOrder
    /// Row r is row `index[r]` of the tensor; the index is `[R]` i32.
    case indexed(TensorView)
    /// The tensor has one row per token; row r is a copy of the token of its slot.
    case tokens(SlotMap)
  }

  /// `[R', width]`.
  public let tensor: TensorView
  /// The position of each row in the tensor.
  public let placement: Placement

  /// Describes rows in the backend's memory.
  public init(_ tensor: TensorView, _ placement: Placement = .inOrder) {
    self.tensor = tensor
    self.placement = placement
  }

  /// The width of a row.
  public var width: Int { tensor.shape[1] }
}

/// Maps slots to rows and rows to slots. Slot t·K + k is the k-th choice of token t.
public struct SlotMap {
  /// The row of each slot, `[T,K]` i32; -1 for a slot without one.
  public let rowOfSlot: TensorView
  /// The slot of each row, `[T·K]` i32; entries from R on are undefined.
  public let slotOfRow: TensorView

  /// Combines both maps.
  public init(rowOfSlot: TensorView, slotOfRow: TensorView) {
    self.rowOfSlot = rowOfSlot
    self.slotOfRow = slotOfRow
  }

  /// K, the experts per token.
  public var topK: Int { rowOfSlot.shape[1] }
}

extension ExpertRows {
  /// The rows that there is room for: those of the tensor, or of its index.
  public var capacity: Int {
    switch placement {
    case .inOrder: tensor.shape[0]
    case .indexed(let index): index.elementCount
    case .tokens(let slots): slots.slotOfRow.elementCount
    }
  }
}
