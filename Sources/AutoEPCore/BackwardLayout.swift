/// Where `ExpertsPath.backward` keeps what it works in: in the memory of gate/up's gradient, which it
/// makes last, while there is room, and else in the workspace.
struct BackwardLayout {
  /// `[R,H]`: the gradient of the experts' results, and later that of their rows.
  let gradRows: Part
  /// `[R,F]`
  let activated: Part
  /// `[N,H]`: the copies to send, and later those that come back; none for a rank alone.
  let copies: Part
  /// All of the workspace.
  let workspaceBytes: Int

  /// A part of the one or the other.
  struct Part {
    let shape: [Int]
    let dtype: DataType
    let isLent: Bool
    /// In bytes.
    let offset: Int
  }

  /// The layout for a plan, with so many bytes of gate/up's gradient; 0 where none is wanted.
  init(_ plan: DispatchPlan, _ configuration: ExpertsConfiguration, lentBytes: Int) {
    let (rows, hiddenSize) = (plan.rowsReceived, configuration.hiddenSize)
    var room = Room(dtype: configuration.dtype, lentBytes: lentBytes)
    gradRows = room.part([rows, hiddenSize])
    // The copies are there before and after the activation.
    var sameRoom = room
    activated = room.part([rows, configuration.ffnSize])
    copies = sameRoom.part([plan.isLocal ? 0 : plan.rowsSent, hiddenSize])
    workspaceBytes = max(room.ownBytes, sameRoom.ownBytes)
  }
}

extension BackwardLayout {
  /// What is left of both memories.
  private struct Room {
    let dtype: DataType
    let lentBytes: Int
    var usedOfLent = 0
    /// What is taken of the workspace.
    var ownBytes = 0

    init(dtype: DataType, lentBytes: Int) {
      self.dtype = dtype
      self.lentBytes = lentBytes
    }

    /// A part of the lent memory, or where that has no room, of the workspace.
    mutating func part(_ shape: [Int]) -> Part {
      let byteCount = shape.reduce(dtype.byteCount, *)
      guard byteCount <= lentBytes - usedOfLent else {
        defer { ownBytes += Arena.footprint(shape, dtype) }
        return Part(shape: shape, dtype: dtype, isLent: false, offset: ownBytes)
      }
      defer { usedOfLent = min(usedOfLent + Arena.footprint(shape, dtype), lentBytes) }
      return Part(shape: shape, dtype: dtype, isLent: true, offset: usedOfLent)
    }
  }
}
