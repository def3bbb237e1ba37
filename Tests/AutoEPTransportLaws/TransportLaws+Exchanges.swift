import AutoEPCore

extension TransportLaw {
  static let exchangeLaws = [
    TransportLaw("even splits arrive in rank order") { transport in
      try Shipment(rows: { _, _ in 3 }, rowBytes: 8).exchange(over: transport)
    },
    TransportLaw("uneven splits, some of them empty") { transport in
      try Shipment(rows: { (3 * $0 + 5 * $1) % 4 }, rowBytes: 12).exchange(over: transport)
    },
    TransportLaw("no rows at all") { transport in
      try Shipment(rows: { _, _ in 0 }, rowBytes: 8).exchange(over: transport)
    },
    TransportLaw("rows of no bytes") { transport in
      try Shipment(rows: { _, _ in 2 }, rowBytes: 0).exchange(over: transport)
    },
    TransportLaw("rows for the own rank only") { transport in
      try Shipment(rows: { $0 == $1 ? 4 : 0 }, rowBytes: 24).exchange(over: transport)
    },
    TransportLaw("one rank sends everything") { transport in
      try Shipment(rows: { source, _ in source == 0 ? 5 : 0 }, rowBytes: 16)
        .exchange(over: transport)
    },
    TransportLaw("one rank receives everything") { transport in
      let last = transport.size - 1
      try Shipment(rows: { $1 == last ? 5 : 0 }, rowBytes: 16).exchange(over: transport)
    },
    TransportLaw("rows of odd sizes") { transport in
      for rowBytes in [1, 3, 61, 4097] {
        try Shipment(rows: { 1 + ($0 + $1) % 3 }, rowBytes: rowBytes).exchange(over: transport)
      }
    },
    TransportLaw("large rows") { transport in
      try Shipment(rows: { 1 + ($0 + $1) % 2 }, rowBytes: 1_000_003).exchange(over: transport)
    },
    TransportLaw("many rows") { transport in
      try Shipment(rows: { 3000 + $0 + 2 * $1 }, rowBytes: 4).exchange(over: transport)
    },
    TransportLaw("many exchanges in a row") { transport in
      for salt in 0..<200 {
        try Shipment(rows: { ($0 + 2 * $1 + salt) % 3 }, rowBytes: 1 + salt % 9, salt: salt)
          .exchange(over: transport)
      }
    },
    TransportLaw("two exchanges in flight, awaited in any order", twoUnderWay),
  ]
}

@Sendable
private func twoUnderWay(_ transport: any Transport) throws {
  let first = Shipment(rows: { 1 + $0 + $1 }, rowBytes: 10_000, salt: 1)
  let second = Shipment(rows: { 2 + ($0 + $1) % 2 }, rowBytes: 6, salt: 2)
  let firstParts = first.parts(to: transport)
  let secondParts = second.parts(to: transport)
  var firstMemory = ReceiveMemory(count: first.arriving(at: transport).count)
  var secondMemory = ReceiveMemory(count: second.arriving(at: transport).count)
  try firstParts.withUnsafeBytes { firstSend in
    try secondParts.withUnsafeBytes { secondSend in
      try firstMemory.withBytes { firstReceive in
        try secondMemory.withBytes { secondReceive in
          let one = try transport.start(first.exchange(transport, firstSend, firstReceive))
          let two = try transport.start(second.exchange(transport, secondSend, secondReceive))
          let laterFirst = transport.rank % 2 == 0
          for pending in laterFirst ? [two, one] : [one, two] { try pending.wait() }
        }
      }
    }
  }
  try first.check(firstMemory, at: transport)
  try second.check(secondMemory, at: transport)
}
