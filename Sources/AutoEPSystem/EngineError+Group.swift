extension EngineError {
  /// Ranks that did not join an exchange before its deadline, `seconds` after its start. `missing` may be
  /// empty if the transport cannot tell which ranks they are.
  package static func missingRanks(
    _ missing: [Int], step: String, rank: Int, size: Int, seconds: Double
  ) -> EngineError {
    let who = missing.isEmpty ? "another rank" : rankList(missing)
    return EngineError(
      .timeout,
      """
      \(step): rank \(rank) of \(size) waited \(seconds) s for \(who), which did not join. Every \
      rank must run the same number of batches and make the same collective calls in the same \
      order; check that \(who) did not stop early or fail, and raise the timeout if it was only slow
      """, step: step, ranks: missing)
  }

  /// A sender and a receiver that disagree about the number of rows between them.
  package static func mismatch(
    step: String, sender: Int, sends: String, receiver: Int, expects: String
  ) -> EngineError {
    EngineError(
      .communication,
      "\(step): rank \(sender) sends \(sends) to rank \(receiver), which expects \(expects)",
      step: step)
  }

  /// The use of a group after one of its exchanges failed; has the ranks of `cause`.
  package static func groupFailed(
    step: String, rank: Int, cause: EngineError
  ) -> EngineError {
    EngineError(
      .communication,
      "\(step): rank \(rank) cannot use its group, which failed before (\(cause.message))",
      step: step, ranks: cause.ranks)
  }
}

/// "rank 1", "ranks 1, 2", "ranks 0, 1, ..., 15 and 48 more".
private func rankList(_ ranks: [Int]) -> String {
  let named = ranks.prefix(16).map(String.init).joined(separator: ", ")
  let rest = ranks.count > 16 ? " and \(ranks.count - 16) more" : ""
  return (ranks.count == 1 ? "rank " : "ranks ") + named + rest
}
