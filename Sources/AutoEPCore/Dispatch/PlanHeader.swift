import AutoEPSystem

/// The host's notes in a plan in host memory. They turn bytes that are not a plan, and the plan of another layer or
/// token count, into an error instead of an access out of bounds.
struct PlanHeader: Equatable {
  /// The number of the layer that made the plan.
  var layer: UInt64
  /// T, the tokens of the plan.
  var numTokens: Int
  /// The rows that tensors must have room for.
  var rows: Int
  /// A, the tokens that arrive.
  var arrivingTokens: Int

  static let fieldCount = 5
  static var byteCount: Int { fieldCount * DataType.i64.byteCount }
  /// "AutoEP" and the layout's version: a value with which other memory is unlikely to begin.
  private static let magic: Int64 = 0x4175_746f_4550_0003

  /// Writes the header to `[fieldCount]` i64.
  func write(to tensor: TensorView) {
    let fields = [
      Self.magic, Int64(bitPattern: layer), Int64(numTokens), Int64(rows), Int64(arrivingTokens),
    ]
    for (index, field) in fields.enumerated() { unsafe tensor.store(field, at: index) }
  }

  /// Marks the memory as holding no plan.
  static func erase(_ tensor: TensorView) { unsafe tensor.store(Int64(0), at: 0) }

  init(layer: UInt64, numTokens: Int, rows: Int, arrivingTokens: Int) {
    self.layer = layer
    self.numTokens = numTokens
    self.rows = rows
    self.arrivingTokens = arrivingTokens
  }

  /// Reads the header; throws unless the memory holds a plan of this layer for `numTokens` tokens.
  init(reading tensor: TensorView, layer: UInt64, numTokens: Int) throws(EngineError) {
    func field(_ index: Int) -> Int64 { unsafe tensor.load(Int64.self, at: index) }
    guard field(0) == Self.magic else {
      throw EngineError(
        .invalidArgument, "plan holds no plan; expected the bytes that autoep_layer_plan wrote")
    }
    self.init(
      layer: UInt64(bitPattern: field(1)), numTokens: Int(field(2)), rows: Int(field(3)),
      arrivingTokens: Int(field(4)))
    guard self.layer == layer else {
      throw EngineError(
        .invalidArgument, "plan was made by another layer; expected a plan of this layer")
    }
    guard self.numTokens == numTokens else {
      throw EngineError(
        .invalidArgument,
        "plan was made for \(self.numTokens) tokens; expected one for \(numTokens), the tokens of this call"
      )
    }
  }

  /// Throws unless the tensors' sizes are exactly the plan's.
  func check(_ rowCount: RowCount) throws(EngineError) {
    guard rowCount.capacity == rows else {
      throw EngineError(
        .invalidArgument,
        "rows_capacity is \(rowCount.capacity); expected \(rows), as the plan's info says")
    }
    guard rowCount.tokens == arrivingTokens else {
      throw EngineError(
        .invalidArgument,
        "arriving_tokens is \(rowCount.tokens); expected \(arrivingTokens), as the plan's info says"
      )
    }
  }
}
