import AutoEPCore
import AutoEPSystem
import CKernels

/// Rows that the idle warps of a Hopper product copy from the tokens while it runs; see
/// sm90_rows_ahead.cuh.
struct RowsAhead {
  /// The tokens, `[T,H]`.
  let tokens: TensorView
  /// The copied rows, `[N,H]` out.
  let rows: TensorView
  let slots: SlotMap
  /// The address of the number of rows in use.
  let rowsInUse: DeviceAddress
  /// The counters, `shape(rows:)` i32.
  let counters: TensorView

  /// Allocates the counters for a product that reads `rows`.
  init(
    _ tokens: TensorView, into rows: TensorView, slots: SlotMap, rowsInUse: DeviceAddress,
    _ arena: inout Arena
  ) throws(EngineError) {
    self.tokens = tokens
    self.rows = rows
    self.slots = slots
    self.rowsInUse = rowsInUse
    counters = try arena.take(Self.shape(rows: rows.shape[0]), .i32)
  }

  /// The bytes of the counters.
  static func byteCount(rows: Int) -> Int { Arena.footprint(shape(rows: rows), .i32) }

  private static func shape(rows: Int) -> [Int] { [1 + (rows + READY_ROWS - 1) / READY_ROWS] }

  var arguments: HopperCopiedAheadArguments {
    HopperCopiedAheadArguments(
      tokens: tokens.bits, rows: rows.bits, slotOfRow: slots.slotOfRow.bits,
      rowCount: rowsInUse.bits, counters: counters.bits, topK: Int32(slots.topK),
      vectors: Int32(tokens.shape[1] / 8))
  }
}
