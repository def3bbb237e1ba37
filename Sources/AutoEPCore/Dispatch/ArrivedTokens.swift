/// The tokens that arrive on a rank, each once, and the rows that the rank makes of them.
struct ArrivedTokens {
  /// The tokens that this rank sends to each rank and receives from it.
  let splits: RowSplits
  /// Their slots, `[A,K]`; a slot whose expert is on another rank has no row here.
  let slots: SlotMap
}
