import AutoEPSystem

extension EngineError {
  /// Ranks that did not join an exchange before the deadline; `missing` may be empty where the
  /// transport cannot tell who it was.
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
      """)
  }

  /// A sender and a receiver that disagree about what passes between them.
  package static func mismatch(
    step: String, sender: Int, sends: String, receiver: Int, expects: String
  ) -> EngineError {
    EngineError(
      .communication,
      "\(step): rank \(sender) sends \(sends) to rank \(receiver), which expects \(expects)")
  }

  /// The use of a group after one of its exchanges failed.
  package static func groupFailed(
    step: String, rank: Int, cause: EngineError
  ) -> EngineError {
    EngineError(
      .communication,
      "\(step): rank \(rank) cannot go on, because its group failed before (\(cause.message))")
  }
}

/// Throws unless `seconds` can serve as a deadline.
package func checkTimeout(_ seconds: Double) throws(EngineError) {
  guard seconds > 0, seconds <= 1e9 else {
    throw EngineError(
      .invalidArgument,
      "timeout: got \(seconds) seconds; expected a number above 0 and at most 1e9")
  }
}

/// "rank 1", "ranks 1, 2", "ranks 0, 1, ..., 15 and 48 more".
private func rankList(_ ranks: [Int]) -> String {
  let named = ranks.prefix(16).map(String.init).joined(separator: ", ")
  let rest = ranks.count > 16 ? " and \(ranks.count - 16) more" : ""
  return (ranks.count == 1 ? "rank " : "ranks ") + named + rest
}
