import AutoEPSystem

extension RowExchange {
  /// Throws unless the exchange has a row count for each of `size` ranks, and host memory whose size does not
  /// overflow. Transports call this before anything else in this file.
  package func check(size: Int) throws(EngineError) {
    guard case .host = send, case .host = receive else {
      throw EngineError(.unsupported, "\(step): this transport moves host memory only", step: step)
    }
    try checkRows(size: size)
  }

  /// Checks the counts of rows, whatever the kind of memory.
  package func checkRows(size: Int) throws(EngineError) {
    guard rowBytes >= 0 else {
      throw EngineError(.invalidArgument, "\(step): row_bytes is \(rowBytes), expected 0 or more")
    }
    try checkRows(sendRows, name: "send_rows", size: size, hasMemory: !send.isNull)
    try checkRows(receiveRows, name: "receive_rows", size: size, hasMemory: !receive.isNull)
  }

  /// The memory of the rows for each rank.
  package var sendParts: [UnsafeRawBufferPointer] {
    unsafe sendRanges.map { bytes in
      let start = unsafe sendPointer.map { unsafe $0 + bytes.lowerBound }
      return unsafe UnsafeRawBufferPointer(start: start, count: bytes.count)
    }
  }

  /// The memory for the rows from each rank.
  package var receiveParts: [UnsafeMutableRawBufferPointer] {
    unsafe receiveRanges.map { bytes in
      let start = unsafe receivePointer.map { unsafe $0 + bytes.lowerBound }
      return unsafe UnsafeMutableRawBufferPointer(start: start, count: bytes.count)
    }
  }

  /// The bytes of the rows to each rank, from the first row's on.
  package var sendRanges: [Range<Int>] { byteRanges(sendRows) }

  /// The bytes of the rows from each rank.
  package var receiveRanges: [Range<Int>] { byteRanges(receiveRows) }

  private func byteRanges(_ rows: [Int]) -> [Range<Int>] {
    var offset = 0
    return rows.map { count in
      defer { offset += count * rowBytes }
      return offset..<offset + count * rowBytes
    }
  }

  private func checkRows(
    _ rows: [Int], name: String, size: Int, hasMemory: Bool
  ) throws(EngineError) {
    guard rows.count == size else {
      throw EngineError(
        .invalidArgument,
        "\(step): \(name) has \(rows.count) entries; expected \(size), one per rank")
    }
    var total = 0
    for (rank, count) in rows.enumerated() {
      let (sum, overflow) = total.addingReportingOverflow(count)
      guard count >= 0, !overflow else {
        throw EngineError(.invalidArgument, "\(step): \(name)[\(rank)] is \(count), out of range")
      }
      total = sum
    }
    let (bytes, overflow) = total.multipliedReportingOverflow(by: rowBytes)
    guard !overflow, hasMemory || bytes == 0 else {
      let what = overflow ? "overflow the address space" : "have no memory: the pointer is null"
      throw EngineError(
        .invalidArgument, "\(step): \(total) rows of \(rowBytes) bytes (\(name)) \(what)")
    }
  }
}
