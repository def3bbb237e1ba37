/// The names of the last exchanges, for reports that the device makes later.
struct PushSteps {
  /// The exchanges whose names are kept. A report that is more exchanges late names a wrong step.
  private static let kept = 256

  private var names = [String](repeating: "", count: kept)
  private var last: UInt64 = 0

  /// Notes the name of the next exchange.
  mutating func note(_ step: String, exchange: UInt64) {
    names[Int(exchange % UInt64(Self.kept))] = step
    last = exchange
  }

  /// The name of an exchange. If another rank reports an exchange that has not begun here, returns the last one's: that
  /// is the exchange which the report ends on this rank.
  func step(of exchange: UInt64) -> String {
    names[Int(min(exchange, last) % UInt64(Self.kept))]
  }
}
