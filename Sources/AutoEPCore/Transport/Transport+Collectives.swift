import AutoEPSystem

extension Transport {
  /// Sends the number `counts[p]` to each rank p; returns the numbers received from the ranks.
  public func exchangeCounts(
    _ counts: [Int], step: String = "exchange of counts"
  ) throws(EngineError) -> [Int] {
    guard counts.count == size else {
      throw EngineError(
        .invalidArgument, "\(step): got \(counts.count) counts, expected one per rank: \(size)")
    }
    let one = Array(repeating: 1, count: size)
    let received = try exchangeNumbers(
      counts.map(Int64.init), sendCounts: one, receiveCounts: one, step: step)
    return received.map { Int($0) }
  }

  /// Returns when every rank has entered.
  public func barrier(step: String = "barrier") throws(EngineError) {
    _ = try exchangeCounts(Array(repeating: 0, count: size), step: step)
  }

  /// Replaces a float32 or float64 tensor by its sum over the ranks, added in rank order: the same
  /// bits on every rank. All ranks pass the same number of elements.
  public func allReduceSum(_ data: TensorView, step: String = "all-reduce") throws(EngineError) {
    switch data.dtype {
    case .f32: try reduce(data, as: Float.self, step: step)
    case .f64: try reduce(data, as: Double.self, step: step)
    default:
      throw EngineError(
        .unsupported, "\(step): dtype is \(data.dtype.name), expected float32 or float64")
    }
  }

  /// Reduces one share of the elements per rank, then gathers the shares.
  private func reduce<Element: BinaryFloatingPoint>(
    _ data: TensorView, as type: Element.Type, step: String
  ) throws(EngineError) {
    let shares = evenShares(of: data.elementCount, among: size)
    let ownShares = Array(repeating: shares[rank], count: size)
    let width = MemoryLayout<Element>.stride
    let scratch = try TransportBuffer(byteCount: size * shares[rank] * width, for: step)
    let addends = unsafe scratch.bytes.baseAddress

    try exchange(
      unsafe RowExchange(
        send: UnsafeRawPointer(data.hostPointer), sendRows: shares, receive: addends,
        receiveRows: ownShares,
        rowBytes: width, step: "\(step), reduce-scatter"))
    unsafe sumInRankOrder(scratch.bytes.bindMemory(to: type), ranks: size)
    try exchange(
      unsafe RowExchange(
        send: addends, sendRows: ownShares, receive: data.hostPointer, receiveRows: shares,
        rowBytes: width, step: "\(step), all-gather"))
  }
}

/// Replaces each of `ranks` equally long parts by the sum of all parts, added in rank order.
private func sumInRankOrder<Element: BinaryFloatingPoint>(
  _ parts: UnsafeMutableBufferPointer<Element>, ranks: Int
) {
  let length = parts.count / ranks
  for element in 0..<length {
    var sum = unsafe parts[element]
    for rank in 1..<max(ranks, 1) { unsafe sum += parts[rank * length + element] }
    for rank in 0..<ranks { unsafe parts[rank * length + element] = sum }
  }
}

/// Splits `count` into one share per rank; the shares differ by one at most.
private func evenShares(of count: Int, among ranks: Int) -> [Int] {
  (0..<ranks).map { count / ranks + ($0 < count % ranks ? 1 : 0) }
}
