import AutoEPCore
import AutoEPSystem

/// The steps of an MoE layer on the cores of this process.
///
/// Thread-safe. Results depend neither on the number of threads nor on a row's position.
public final class CPUBackend: ComputeBackend {
  let pool: ThreadPool
  let kernels: KernelSet
  let workbenches = WorkbenchStore()

  /// Starts the threads and selects the kernels.
  ///
  /// - Parameter numThreads: nil: AUTOEP_NUM_THREADS, else the cores that this process may use.
  public convenience init(numThreads: Int?) throws(EngineError) {
    self.init(threadCount: try ThreadCount.resolve(numThreads), kernels: try KernelSet.chosen())
  }

  init(threadCount: Int, kernels: KernelSet, leastShared: Double = ThreadPool.leastShared) {
    self.kernels = kernels
    pool = ThreadPool(threadCount: threadCount, leastShared: leastShared)
  }

  /// Host memory.
  public var space: MemorySpace { .host }
  /// Does nothing: calls throw invalid data themselves.
  public func checkFaults() {}
  /// The calling thread: a call returns after its work is done.
  public var queue: WorkQueue { .host }
  /// True: products read and write rows in any placement.
  public var readsPlacedRows: Bool { true }

  /// None: products read the groups' bounds themselves.
  public func preparedBytes(_ configuration: ExpertsConfiguration, localExperts: Int) -> ByteCount {
    ByteCount()
  }

  /// Does nothing.
  public func prepare(
    _ groups: RowGroups, _ configuration: ExpertsConfiguration, rowsCapacity: Int
  ) {}

  /// The number of threads in use.
  public var numThreads: Int { pool.threadCount }

  /// The smallest number of items worth a thread of their own, if each takes `elements` element operations: for fewer
  /// than 16384 operations, waking a thread costs more than it gains.
  static func grain(elementsPerItem elements: Int) -> Int { 16384 / max(elements, 1) + 1 }

  static func unsupported(_ dtype: DataType, by operation: String) -> EngineError {
    EngineError(.unsupported, "\(operation) takes no tensor of dtype \(dtype.name)")
  }
}
