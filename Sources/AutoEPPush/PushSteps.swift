/// The names of the last exchanges, for reports that the device makes later.
struct PushSteps {
  /// How many exchanges a report can be late.
  private static let kept = 256

  private var names = [String](repeating: "", count: kept)
  private var last: UInt64 = 0

  /// Notes the name of the next exchange.
  mutating func note(_ step: String, exchange: UInt64) {
    names[Int(exchange % UInt64(Self.kept))] = step
    last = exchange
  }

  /// The name of an exchange. Another rank can report one that has not begun here; its notice ends the last one.
  func step(of exchange: UInt64) -> String {
    names[Int(min(exchange, last) % UInt64(Self.kept))]
  }
}
