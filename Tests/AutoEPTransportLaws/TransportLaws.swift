import AutoEPCore

/// Checks the laws every transport obeys: order, empty splits, uneven splits, self-send, ranks
/// without rows, large rows, many exchanges in a row, collectives, the bits of a sum, health and abort.
///
/// `makeWorld` makes the ranks of a group of a size: all of them, each of which then runs in a
/// thread of its own, or those of this process, where the others check the same laws elsewhere.
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
    // Last, for the group is of no use afterwards.
    try checkEachRank(try makeWorld(size), TransportLaw("an abort ends the group", checkAbort))
  }
}

/// What one rank of a group checks while the others do the same.
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
  /// Which law, where, and how.
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
