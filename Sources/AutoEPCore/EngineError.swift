/// Why a call failed: a kind that programs branch on, and a text that people read.
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

  /// What kind of failure this is.
  public let kind: Kind
  /// What, where, got, expected, and what to do.
  public let message: String

  /// Makes an error of a kind with its text.
  public init(_ kind: Kind, _ message: String) {
    self.kind = kind
    self.message = message
  }

  /// The text.
  public var description: String { message }
}
