import AutoEPCore
import AutoEPSystem

/// Rows that a Hopper product finds in its memory only once it has begun: its idle warps copy them there
/// from the tokens; see sm90_rows_ahead.cuh.
struct RowsAhead {
  /// [T,H].
  let tokens: TensorView
  /// [N,H], out.
  let rows: TensorView
  let routing: RoutingMetadata
  /// `shape(rows:)` i32.
  let counters: TensorView

  /// Rows that are told of together; as in sm90_rows_ahead.cuh.
  private static let readyRows = 128

  /// Takes the counters' memory, for a product whose `rows` these are.
  init(
    _ tokens: TensorView, into rows: TensorView, routing: RoutingMetadata, _ arena: inout Arena
  ) throws(EngineError) {
    self.tokens = tokens
    self.rows = rows
    self.routing = routing
    counters = try arena.take(Self.shape(rows: rows.shape[0]), .i32)
  }

  /// Bytes that the counters take up.
  static func byteCount(rows: Int) -> Int { Arena.footprint(shape(rows: rows), .i32) }

  private static func shape(rows: Int) -> [Int] { [1 + (rows + readyRows - 1) / readyRows] }

  var arguments: HopperRowsAheadArguments {
    HopperRowsAheadArguments(
      tokens: tokens.bits, rows: rows.bits, slotOfRow: routing.slotOfRow.bits,
      rowCount: (routing.expertOffsets.address + 4 * (routing.expertOffsets.elementCount - 1)).bits,
      counters: counters.bits, topK: Int32(routing.rowOfSlot.shape[1]),
      vectors: Int32(tokens.shape[1] / 8))
  }
}
