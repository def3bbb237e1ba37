/// Why a call failed: a kind for programs, a message for people and, for a failed exchange, its step and the missing
/// ranks as data.
public struct EngineError: Error, Sendable, CustomStringConvertible {
  /// The kinds of failure; raw values are the C interface's status codes.
  public enum Kind: Int32, Sendable {
    case invalidArgument = 1
    case invalidHandle = 2
    case unsupported = 3
    case outOfMemory = 4
    case communication = 5
    case timeout = 6
    case missingLibrary = 7
    case `internal` = 8
  }

  /// The kind of failure.
  public let kind: Kind
  /// The message: what failed, where, what was expected, and what to do.
  public let message: String
  /// The step of the pass that failed, such as "dispatch", if there is one.
  public let step: String?
  /// The ranks that did not join the step, ascending; empty if none was missing or they are unknown.
  public let ranks: [Int]

  /// Makes an error of a kind with its text.
  public init(_ kind: Kind, _ message: String, step: String? = nil, ranks: [Int] = []) {
    self.kind = kind
    self.message = message
    self.step = step
    self.ranks = ranks
  }

  /// The message.
  public var description: String { message }
}
