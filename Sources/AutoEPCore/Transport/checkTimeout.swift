import AutoEPSystem

/// Throws unless a transport can wait for `seconds`.
package func checkTimeout(_ seconds: Double) throws(EngineError) {
  guard seconds > 0, seconds <= 1e9 else {
    throw EngineError(
      .invalidArgument,
      "timeout: got \(seconds) seconds; expected a number above 0 and at most 1e9")
  }
}
