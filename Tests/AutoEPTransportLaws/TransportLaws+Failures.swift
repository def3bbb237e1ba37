import AutoEPCore
import AutoEPSystem

/// Checks that a rank whose partner does not join reports it at the deadline, and that the group is then
/// unusable.
public func checkMissingRank(
  _ missing: Int, at transport: any Transport, seconds: Double
) throws {
  let error = try failure(of: "barrier") { () throws(EngineError) in
    try transport.barrier(step: "roll call")
  }
  try require(error.kind == .timeout, "expected a timeout, got \(error.kind): \(error)")
  let waited =
    "rank \(transport.rank) of \(transport.size) waited \(seconds) s for rank \(missing),"
  for part in ["roll call", waited, "same number of batches"] {
    try require(error.message.contains(part), "'\(part)' is not in: \(error)")
  }
  try checkRefusal(at: transport)
}

/// Checks that if the last rank sends one row fewer than rank 0 expects, the error names both. Every rank of a group
/// of at least two calls it.
public func checkMismatch(at transport: any Transport) throws {
  let (first, last) = (0, transport.size - 1)
  let expectsMore = transport.rank == first
  let shipment = Shipment(
    rows: { $0 == last && $1 == first && expectsMore ? 3 : 2 }, rowBytes: 100_000)
  do {
    try shipment.exchange(over: transport)
    try require(!expectsMore, "rank 0 did not notice the missing row")
  } catch let error as EngineError {
    let text = "rank \(last) sends 2 rows of 100000 bytes"
    try require(
      error.kind == .communication && error.message.contains(text), "'\(text)' is not in: \(error)")
  }
  _ = try failure(of: "barrier after a mismatch") { () throws(EngineError) in
    try transport.barrier()
  }
}

/// Checks that using a group whose exchange failed gives an error that says so.
public func checkRefusal(at transport: any Transport) throws {
  let error = try failure(of: "use of a failed group") { () throws(EngineError) in
    try transport.barrier()
  }
  try require(
    error.kind == .communication && error.message.contains("its group, which failed before"),
    "expected a refusal, got \(error.kind): \(error)")
}

/// Checks that after one rank aborts a group, later exchanges fail there with the reason. Every rank of a group
/// calls it.
@Sendable
public func checkAbort(at transport: any Transport) throws {
  try transport.barrier()
  // In one process, another rank may have aborted the group already.
  let before = transport.health.failure
  try require(
    before == nil || before?.message == "the trainer gave up",
    "a working group reports a failure: \(String(describing: before))")
  transport.abort(EngineError(.internal, "the trainer gave up", ranks: [0]))
  let recorded = transport.health.failure
  try require(
    recorded?.kind == .internal && recorded?.message == "the trainer gave up",
    "health reports \(String(describing: recorded))")
  for _ in 0..<2 {
    let error = try failure(of: "exchange after an abort") { () throws(EngineError) in
      try transport.barrier(step: "roll call")
    }
    try require(
      error.kind == .communication && error.message.contains("the trainer gave up")
        && error.step == "roll call" && error.ranks == [0],
      "expected the reason of the abort, got \(error.kind): \(error)")
    try checkRefusal(at: transport)
  }
  transport.abort(EngineError(.internal, "once more"))
  try require(
    transport.health.failure?.message == "the trainer gave up", "a later abort hides the first one")
}

/// The error of `body`; throws if there is none.
public func failure(
  of what: String, _ body: () throws(EngineError) -> Void
) throws -> EngineError {
  do throws(EngineError) {
    try body()
  } catch {
    return error
  }
  throw BrokenLaw("\(what): expected an error, but none was thrown")
}
