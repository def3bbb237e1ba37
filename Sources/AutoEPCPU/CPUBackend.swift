import AutoEPCore
import AutoEPSystem

/// The steps of an MoE layer on the cores of this process.
///
/// May be used from several threads at once. Results depend neither on the number of threads nor on
/// where a row stands.
public final class CPUBackend: ComputeBackend {
  let pool: ThreadPool
  let kernels: KernelSet
  let workbenches = WorkbenchStore()

  /// Starts the threads and chooses the kernels.
  ///
  /// - Parameter numThreads: nil takes AUTOEP_NUM_THREADS, else the cores this process may use.
  public convenience init(numThreads: Int?) throws(EngineError) {
    self.init(threadCount: try ThreadCount.resolve(numThreads), kernels: try KernelSet.chosen())
  }

  init(threadCount: Int, kernels: KernelSet, leastShared: Double = ThreadPool.leastShared) {
    self.kernels = kernels
    pool = ThreadPool(threadCount: threadCount, leastShared: leastShared)
  }

  /// Memory of this process.
  public var space: MemorySpace { .host }
  /// Nothing: what is wrong with data shows at once.
  public func checkFaults() {}
  /// The calling thread: results are there when a call returns.
  public var queue: WorkQueue { .host }
  /// Products read and write rows wherever they are.
  public var readsPlacedRows: Bool { true }

  /// Nothing: where groups begin is read when it is needed.
  public func preparedBytes(_ configuration: ExpertsConfiguration, localExperts: Int) -> ByteCount {
    ByteCount()
  }

  /// Nothing.
  public func prepare(
    _ groups: RowGroups, _ configuration: ExpertsConfiguration, rowsCapacity: Int
  ) {}

  /// The number of threads in use.
  public var numThreads: Int { pool.threadCount }

  /// The least items of a parallel range when each takes `elements` element operations: below it,
  /// waking a thread costs more than it brings.
  static func grain(elementsPerItem elements: Int) -> Int { 16384 / max(elements, 1) + 1 }

  static func unsupported(_ dtype: DataType, by operation: String) -> EngineError {
    EngineError(.unsupported, "\(operation) takes no tensor of dtype \(dtype.name)")
  }
}
