import AutoEPCore

/// Checks the laws every transport obeys: order, empty splits, uneven splits, self-send, ranks
/// without rows, large rows, many exchanges in a row, collectives, the bits of a sum, health and abort.
///
/// `makeWorld` makes the ranks of a group of a given size that are in this process; each runs in a thread of its
/// own. Other processes check the same laws on the remaining ranks.
public func checkTransport(
  sizes: [Int] = [1, 2, 3, 4], _ makeWorld: (_ size: Int) throws -> [any Transport]
) throws {
  for size in sizes {
    for law in TransportLaw.all {
      try checkEachRank(try makeWorld(size), law)
    }
    try checkEachRank(
      try makeWorld(size),
      TransportLaw("all laws on one group") { transport in
        for law in TransportLaw.all { try law.check(transport) }
      })
    // Last, because the group is unusable afterwards.
    try checkEachRank(try makeWorld(size), TransportLaw("an abort ends the group", checkAbort))
  }
}

/// The check of one rank of a group, which the other ranks run at the same time.
struct TransportLaw: Sendable {
  let name: String
  let check: @Sendable (any Transport) throws -> Void

  init(_ name: String, _ check: @escaping @Sendable (any Transport) throws -> Void) {
    self.name = name
    self.check = check
  }

  static var all: [TransportLaw] { exchangeLaws + collectiveLaws + argumentLaws }
}

/// A law that a transport broke.
public struct BrokenLaw: Error, CustomStringConvertible {
  /// The law, the rank and the failure.
  public let description: String

  /// Makes the error with its text.
  public init(_ description: String) { self.description = description }
}

/// Throws unless `condition` holds.
func require(_ condition: Bool, _ what: @autoclosure () -> String) throws {
  if !condition { throw BrokenLaw(what()) }
}

private func checkEachRank(_ ranks: [any Transport], _ law: TransportLaw) throws {
  try runRanks(ranks) { transport in
    do {
      try law.check(transport)
    } catch {
      throw BrokenLaw("\(law.name), rank \(transport.rank) of \(transport.size): \(error)")
    }
  }
}
