import AutoEPCore
import AutoEPSystem

/// The opening of a group, in parts. A part that fails on one rank fails on all of them, so no rank is left waiting.
struct PushOpening {
  static let step = "opening of a push group"
  /// Words of an error's text; longer texts are cut.
  private static let textWords = 64

  /// The transport by which the ranks reach each other until the group is open.
  let control: any Transport

  /// Runs a part on every rank, and returns this rank's result if it succeeds on all of them. Otherwise throws the
  /// failure of the lowest rank that failed, and names the rank.
  func onEveryRank<Result>(
    _ body: () throws(EngineError) -> Result
  ) throws(EngineError) -> Result {
    var result: Result?
    var failure: EngineError?
    do throws(EngineError) { result = try body() } catch { failure = error }
    let outcomes = try gather(
      [UInt64(failure?.kind.rawValue ?? 0)] + packed(failure?.message ?? "", words: Self.textWords))
    for (rank, outcome) in outcomes.enumerated() where outcome[0] != 0 {
      throw EngineError(
        EngineError.Kind(rawValue: Int32(truncatingIfNeeded: outcome[0])) ?? .internal,
        "\(Self.step): rank \(rank) of \(control.size): \(unpacked(outcome.dropFirst()))",
        step: Self.step, ranks: rank == control.rank ? failure?.ranks ?? [] : [])
    }
    guard let result else {
      throw EngineError(.internal, "\(Self.step): no result", step: Self.step)
    }
    return result
  }

  /// Returns the words of every rank, `[size]`; all ranks give the same number of words.
  func gather(_ words: [UInt64]) throws(EngineError) -> [[UInt64]] {
    let size = control.size
    let counts = Array(repeating: words.count, count: size)
    let numbers = words.map { Int64(bitPattern: $0) }
    let received = try control.exchangeNumbers(
      Array(repeatElement(numbers, count: size).joined()), sendCounts: counts,
      receiveCounts: counts, step: Self.step)
    return (0..<size).map { rank in
      received[rank * words.count..<(rank + 1) * words.count].map { UInt64(bitPattern: $0) }
    }
  }
}
