import AutoEPSystem

extension Transport {
  /// Sends `sendCounts[p]` of `numbers` to each rank p, in rank order, and returns the `receiveCounts[p]` numbers
  /// from each rank p. Both counts are `[size]`; `sendCounts` sum to the count of `numbers`.
  public func exchangeNumbers(
    _ numbers: [Int64], sendCounts: [Int], receiveCounts: [Int], step: String
  ) throws(EngineError) -> [Int64] {
    var received = [Int64](repeating: 0, count: receiveCounts.reduce(0, +))
    var failure: EngineError?
    unsafe numbers.withUnsafeBytes { send in
      unsafe received.withUnsafeMutableBytes { receive in
        do throws(EngineError) {
          try exchange(
            unsafe RowExchange(
              send: send.baseAddress, sendRows: sendCounts, receive: receive.baseAddress,
              receiveRows: receiveCounts, rowBytes: MemoryLayout<Int64>.stride, step: step))
        } catch {
          failure = error
        }
      }
    }
    if let failure { throw failure }
    return received
  }
}
