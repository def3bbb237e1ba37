/// The tokens that arrive on a rank, each once, and the rows that the rank makes of them.
struct ArrivedTokens {
  /// Tokens to and from each rank.
  let splits: RowSplits
  /// A slot for each token that arrives and each k: `[A,K]`; a slot of an expert on another rank has no row.
  let slots: SlotMap
}
