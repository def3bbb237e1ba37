import AutoEPSystem

/// What the host notes in a plan in its memory, so that foreign bytes, or the plan of another layer or of other
/// tokens, are an error and no wild read.
struct PlanHeader: Equatable {
  /// The layer that made the plan.
  var layer: UInt64
  /// T.
  var numTokens: Int
  /// Rows that tensors must have room for.
  var rows: Int

  static let fieldCount = 4
  static var byteCount: Int { fieldCount * DataType.i64.byteCount }
  /// "AutoEP" and the layout's version, as a number that other memory will hardly begin with.
  private static let magic: Int64 = 0x4175_746f_4550_0002

  /// Writes `[fieldCount]` i64.
  func write(to tensor: TensorView) {
    let fields = [Self.magic, Int64(bitPattern: layer), Int64(numTokens), Int64(rows)]
    for (index, field) in fields.enumerated() { unsafe tensor.store(field, at: index) }
  }

  /// Makes the memory hold no plan.
  static func erase(_ tensor: TensorView) { unsafe tensor.store(Int64(0), at: 0) }

  init(layer: UInt64, numTokens: Int, rows: Int) {
    self.layer = layer
    self.numTokens = numTokens
    self.rows = rows
  }

  /// Reads it back; throws where this is no plan of the layer for so many tokens.
  init(reading tensor: TensorView, layer: UInt64, numTokens: Int) throws(EngineError) {
    func field(_ index: Int) -> Int64 { unsafe tensor.load(Int64.self, at: index) }
    guard field(0) == Self.magic else {
      throw EngineError(
        .invalidArgument, "plan holds no plan; expected the bytes that a plan was made in")
    }
    self.init(
      layer: UInt64(bitPattern: field(1)), numTokens: Int(field(2)), rows: Int(field(3)))
    guard self.layer == layer else {
      throw EngineError(
        .invalidArgument, "plan was made by another layer; expected one of this layer")
    }
    guard self.numTokens == numTokens else {
      throw EngineError(
        .invalidArgument,
        "plan was made for \(self.numTokens) tokens; expected one for \(numTokens), the tokens of this call"
      )
    }
  }

  /// Throws unless tensors have room for the plan's rows and no more.
  func check(_ rowCount: RowCount) throws(EngineError) {
    guard rowCount.capacity == rows else {
      throw EngineError(
        .invalidArgument,
        "rows_capacity is \(rowCount.capacity); expected \(rows), as the plan's info says")
    }
  }
}
