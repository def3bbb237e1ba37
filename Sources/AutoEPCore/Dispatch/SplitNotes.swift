import AutoEPSystem
import Synchronization

/// The splits of the plans that a layer has made in a device's memory: a transport needs them on the host, and to read
/// them back would wait for all work of the device, in every forward and backward.
///
/// A plan has a number for this, because its memory may be moved, and used again for another plan. Only the last plans are
/// noted; the splits of another one are read back. Plans in host memory are always read.
public final class SplitNotes: Sendable {
  /// More than the passes of one layer that wait for their backward.
  private static let most = 256
  private static let lastNumber = Atomic<Int>(0)
  private let notes = Locked<[(plan: Int, splits: RowSplits)]>([])

  /// Creates the notes of one layer.
  public init() {}

  /// Notes the splits of the plan in this memory; returns its number, 0 for host memory.
  func keep(_ splits: RowSplits, of memory: Arena) -> Int {
    guard case .device = memory.base else { return 0 }
    let plan = Self.lastNumber.add(1, ordering: .relaxed).newValue
    notes.withLock { notes in
      if notes.count == Self.most { notes.removeFirst() }
      notes.append((plan, splits))
    }
    return plan
  }

  /// Returns the splits of a plan; nil if they are not noted, as those of number 0.
  func splits(of plan: Int) -> RowSplits? {
    notes.withLock { $0.last { $0.plan == plan }?.splits }
  }
}
