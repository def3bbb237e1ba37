import AutoEPSystem
import Glibc

/// The outcome of one law's check.
public struct LawOutcome: Sendable {
  /// The name of the law and its parameters.
  public let name: String
  /// The largest error of a result relative to its tolerance; nil if nothing was compared by norm.
  public let largestError: Double?
  /// The failures; empty if the law holds.
  public let failures: [String]
}

/// The failures of laws that do not hold.
struct BrokenLaw: Error, CustomStringConvertible {
  let description: String
}

/// Collects the failures of a law, so that one wrong result does not hide the others, and ranks that wait for each
/// other all finish.
final class LawRecord: Sendable {
  private struct State {
    var largestError: Double?
    var failures: [String] = []
  }

  /// Further failures of one law are not recorded.
  private static let mostFailures = 12
  private let name: String
  private let state = Locked(State())

  init(_ name: String) { self.name = name }

  var outcome: LawOutcome {
    state.withLock {
      LawOutcome(name: name, largestError: $0.largestError, failures: $0.failures)
    }
  }

  func fail(_ what: String) {
    state.withLock { if $0.failures.count < Self.mostFailures { $0.failures.append(what) } }
  }

  func expect(_ condition: Bool, _ what: @autoclosure () -> String) {
    if !condition { fail(what()) }
  }

  /// Expects ‖got − expected‖ ≤ tolerance · ‖expected‖. NaN counts as the largest error.
  func compare(
    _ got: [Double], _ expected: [Double], within tolerance: Double,
    _ what: @autoclosure () -> String
  ) {
    guard got.count == expected.count else {
      return fail("\(what()): \(got.count) elements; expected \(expected.count)")
    }
    let error = distance(got, expected)
    let allowed = tolerance * norm(expected)
    let share = error == 0 ? 0 : error / allowed
    state.withLock { $0.largestError = larger($0.largestError ?? 0, share) }
    if !(share <= 1) {
      fail(
        "\(what()): error \(error / norm(expected)) of the norm, allowed \(tolerance); "
          + differences(got, expected, above: tolerance))
    }
  }

  /// Expects the same bits, except for the payload of a NaN.
  func expectSame(_ got: [Double], _ expected: [Double], _ what: @autoclosure () -> String) {
    guard got.count == expected.count else {
      return fail("\(what()): \(got.count) elements; expected \(expected.count)")
    }
    if !hasSameBits(got, expected) { fail("\(what()): \(differences(got, expected, above: 0))") }
  }

  /// Expects an error of one of these kinds whose message contains these parts; returns whether there was an error.
  func expectError(
    _ kinds: [EngineError.Kind], saying parts: [String] = [], _ what: String,
    _ body: () throws -> Void
  ) {
    do {
      try body()
      fail("\(what): expected an error, but none was thrown")
    } catch let error as EngineError {
      expect(
        kinds.contains(error.kind), "\(what): expected one of \(kinds), got \(error.kind): \(error)"
      )
      for part in parts where !error.message.contains(part) {
        fail("\(what): '\(part)' is not in: \(error)")
      }
    } catch {
      fail("\(what): expected an EngineError, got \(error)")
    }
  }
}

/// Checks one law; an error that `body` throws counts as a failure.
func check(_ name: String, _ body: (LawRecord) throws -> Void) -> LawOutcome {
  let record = LawRecord(name)
  do { try body(record) } catch { record.fail("threw: \(error)") }
  return record.outcome
}

/// Throws if any law is broken.
func conclude(_ outcomes: [LawOutcome]) throws {
  let broken = outcomes.filter { !$0.failures.isEmpty }
  guard !broken.isEmpty else { return }
  throw BrokenLaw(
    description: broken.map { "\($0.name):\n  " + $0.failures.joined(separator: "\n  ") }
      .joined(separator: "\n"))
}

/// Selects the laws whose name contains the filter; throws if there are none.
func chosen<Law>(_ laws: [Law], _ name: KeyPath<Law, String>, _ filter: String) throws -> [Law] {
  let chosen = laws.filter { filter.isEmpty || $0[keyPath: name].contains(filter) }
  guard !chosen.isEmpty else { throw BrokenLaw(description: "no law's name contains '\(filter)'") }
  return chosen
}

func hasSameBits(_ left: [Double], _ right: [Double]) -> Bool {
  zip(left, right).allSatisfy { $0.bitPattern == $1.bitPattern || ($0.isNaN && $1.isNaN) }
}

private func norm(_ values: [Double]) -> Double {
  values.reduce(0) { $0 + $1 * $1 }.squareRoot()
}

private func distance(_ left: [Double], _ right: [Double]) -> Double {
  zip(left, right).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) }.squareRoot()
}

/// The larger of two errors; NaN is the largest.
private func larger(_ left: Double, _ right: Double) -> Double {
  left.isNaN || right.isNaN ? .nan : max(left, right)
}

/// Describes the elements that differ by more than a part of their size: their number, and the first three.
private func differences(_ got: [Double], _ expected: [Double], above part: Double) -> String {
  let wrong = got.indices.filter { index in
    let (value, reference) = (got[index], expected[index])
    return part == 0
      ? !hasSameBits([value], [reference]) : !(abs(value - reference) <= part * abs(reference))
  }
  let first = wrong.prefix(3).map { "[\($0)] is \(got[$0]), expected \(expected[$0])" }
  return "\(wrong.count) of \(got.count) elements differ, \(got.count(where: \.isNaN)) are NaN: "
    + first.joined(separator: "; ")
}
