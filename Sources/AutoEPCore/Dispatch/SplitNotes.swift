import AutoEPSystem
import Synchronization

/// The host's copies of the splits of the plans that a layer has made in a device's memory. A transport needs them on
/// the host, and reading them back would make every forward and backward wait for the device.
///
/// Splits are found by the plan's number rather than by its address, because a plan's memory may be moved, or reused
/// for another plan. Only the latest plans are noted; the splits of older ones are read back. Those of plans in host
/// memory are always read.
public final class SplitNotes: Sendable {
  /// The plans that are noted: more than the layers of a model, which may share one of the engine's, times the
  /// micro-batches whose backward is still to come.
  private static let most = 4096
  private static let lastNumber = Atomic<Int>(0)
  private let notes = Locked<[(plan: Int, splits: RowSplits)]>([])

  /// Creates the notes of one layer.
  public init() {}

  /// Notes the splits of the plan in `memory`, and returns the plan's number; notes nothing and returns 0 for host
  /// memory.
  func keep(_ splits: RowSplits, of memory: Arena) -> Int {
    guard case .device = memory.base else { return 0 }
    let plan = Self.lastNumber.add(1, ordering: .relaxed).newValue
    notes.withLock { notes in
      if notes.count == Self.most { notes.removeFirst() }
      notes.append((plan, splits))
    }
    return plan
  }

  /// Returns the splits of the plan with this number; nil if they are not noted, which those of number 0 never are.
  func splits(of plan: Int) -> RowSplits? {
    notes.withLock { $0.last { $0.plan == plan }?.splits }
  }
}
