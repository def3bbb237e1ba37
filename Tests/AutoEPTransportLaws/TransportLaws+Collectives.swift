import AutoEPCore

extension TransportLaw {
  static let collectiveLaws = [
    TransportLaw("counts reach their target rank") { transport in
      let ranks = 0..<transport.size
      let received = try transport.exchangeCounts(ranks.map { 100 * transport.rank + $0 })
      try require(received == ranks.map { 100 * $0 + transport.rank }, "received \(received)")
    },
    TransportLaw("counts keep all 64 bits") { transport in
      let received = try transport.exchangeCounts(
        Array(repeating: Int.max - transport.rank, count: transport.size))
      try require(received == (0..<transport.size).map { Int.max - $0 }, "received \(received)")
    },
    TransportLaw("barriers") { transport in
      for _ in 0..<20 { try transport.barrier() }
    },
    TransportLaw("a sum of floats has the bits of a sum in rank order") { transport in
      for count in [0, 1, 2, 7, 1000] {
        try checkSum(of: Float.self, dtype: .f32, count: count, over: transport)
      }
    },
    TransportLaw("a sum of doubles has the bits of a sum in rank order") { transport in
      for count in [0, 1, 3, 999] {
        try checkSum(of: Double.self, dtype: .f64, count: count, over: transport)
      }
    },
    TransportLaw("a sum propagates infinities and NaN") { transport in
      var data: [Float] = [transport.rank == 0 ? .infinity : 1, transport.rank == 0 ? .nan : 1, 1]
      try allReduce(&data, dtype: .f32, over: transport)
      try require(
        data[0] == .infinity && data[1].isNaN && data[2] == Float(transport.size), "got \(data)")
    },
  ]
}

private func checkSum<Element: BinaryFloatingPoint>(
  of type: Element.Type, dtype: DataType, count: Int, over transport: any Transport
) throws {
  var data = addends(type, count: count, rank: transport.rank)
  var expected = addends(type, count: count, rank: 0)
  for rank in 1..<max(transport.size, 1) {
    for (index, addend) in addends(type, count: count, rank: rank).enumerated() {
      expected[index] += addend
    }
  }
  try allReduce(&data, dtype: dtype, over: transport)
  try require(data == expected, "\(count) elements: the sums differ from those in rank order")
}

/// Numbers of many magnitudes, whose sum depends on its order.
private func addends<Element: BinaryFloatingPoint>(
  _ type: Element.Type, count: Int, rank: Int
) -> [Element] {
  (0..<count).map { index in
    let mixed =
      UInt64(index + 1) &* 0x9E37_79B9_7F4A_7C15 &+ UInt64(rank + 1) &* 0xD1B5_4A32_D192_ED03
    let magnitude = Element(1 << (mixed >> 59))
    return Element(Int64(bitPattern: mixed) >> 11) * magnitude
  }
}

private func allReduce<Element>(
  _ data: inout [Element], dtype: DataType, over transport: any Transport
) throws {
  let count = data.count
  try data.withUnsafeMutableBytes { bytes in
    try transport.allReduceSum(
      TensorView(data: bytes.baseAddress, shape: [count], dtype: dtype))
  }
}
