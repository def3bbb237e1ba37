/// The parcels that the ranks of one process have posted and not yet received.
struct Mail {
  /// The number of exchanges that each rank has started, `[size]`.
  private var started: [Int]
  private var parcels: [Address: Parcel] = [:]

  private struct Address: Hashable {
    let number: Int
    let source: Int
    let target: Int
  }

  init(size: Int) { started = Array(repeating: 0, count: size) }

  /// Posts `posted[p]` for each rank p; returns the number of the sender's exchange.
  mutating func post(_ posted: [Parcel], from source: Int) -> Int {
    let number = started[source]
    started[source] += 1
    for (target, parcel) in posted.enumerated() {
      parcels[Address(number: number, source: source, target: target)] = parcel
    }
    return number
  }

  /// The ranks that have not started exchange `number`.
  func missing(_ number: Int) -> [Int] {
    started.indices.filter { started[$0] <= number }
  }

  /// Removes and returns the parcels of exchange `number` for one rank, in sender order.
  mutating func take(_ number: Int, at target: Int) -> [Parcel] {
    started.indices.compactMap {
      parcels.removeValue(forKey: Address(number: number, source: $0, target: target))
    }
  }
}
