import AutoEPCore

/// Memory that one rank sends to another, or receives from it.
struct NCCLTransfer {
  let peer: Int
  let address: DeviceAddress
  let byteCount: Int

  /// The parts of memory that lie one after the other, one per rank; none for empty ones and for rank `own`.
  static func parts(
    of memory: DeviceAddress, _ ranges: [Range<Int>], without own: Int
  ) -> [NCCLTransfer] {
    ranges.enumerated().compactMap { peer, range in
      guard peer != own, !range.isEmpty else { return nil }
      return NCCLTransfer(
        peer: peer, address: memory + range.lowerBound, byteCount: range.count)
    }
  }
}
