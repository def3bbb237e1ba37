import AutoEPSystem

/// The splits of the plans that a layer has made in a device's memory, by where they are: a transport needs them on the
/// host, and to read them back would wait for all work of the device, in every forward and backward.
///
/// Only the last plans are noted, and only where they were made; of another one the splits are read back. Plans in host
/// memory are always read.
public final class SplitNotes: Sendable {
  private struct Note {
    let plan: DeviceAddress
    let splits: RowSplits
  }

  /// More than the passes of one layer that wait for their backward.
  private static let most = 256
  private let notes = Locked<[Note]>([])

  /// Makes the notes of one layer.
  public init() {}

  /// Notes the splits of the plan in this memory.
  func keep(_ splits: RowSplits, of memory: Arena) {
    guard case .device(let plan) = memory.base else { return }
    notes.withLock { notes in
      notes.removeAll { $0.plan == plan }
      if notes.count == Self.most { notes.removeFirst() }
      notes.append(Note(plan: plan, splits: splits))
    }
  }

  /// Returns the splits of the plan in this memory; nil if they were not kept.
  func splits(of memory: Arena) -> RowSplits? {
    guard case .device(let plan) = memory.base else { return nil }
    return notes.withLock { $0.last { $0.plan == plan }?.splits }
  }

  /// Forgets the plan that was in this memory.
  func forget(_ memory: Arena) {
    guard case .device(let plan) = memory.base else { return }
    notes.withLock { $0.removeAll { $0.plan == plan } }
  }
}
